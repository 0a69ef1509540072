import { type FileHandle, open } from 'node:fs/promises';

/** How much is read or written in one call: about a millisecond. */
export const BLOCK_BYTES = 1024 * 1024;

/**
 * A file in blocks. A block is valid until the next one is requested: its memory is used again.
 * @param limit bytes from the start of the file
 * @param size of a block in bytes
 */
export async function* readBlocks(
  path: string,
  limit = Number.POSITIVE_INFINITY,
  size = BLOCK_BYTES,
): AsyncGenerator<Buffer> {
  const handle = await open(path);
  try {
    const block = Buffer.allocUnsafeSlow(size);
    for (let left = limit; left > 0; ) {
      const { bytesRead } = await handle.read(block, 0, Math.min(left, size), null);
      if (bytesRead === 0) return;
      left -= bytesRead;
      yield block.subarray(0, bytesRead);
    }
  } finally {
    await handle.close();
  }
}

/** Writes all of the block, where one call of the system may write less. */
export async function writeAll(handle: FileHandle, block: Buffer, position: number): Promise<void> {
  for (let at = 0; at < block.length; ) {
    const { bytesWritten } = await handle.write(block, at, block.length - at, position + at);
    at += bytesWritten;
  }
}
