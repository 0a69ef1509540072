import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import type { Transform } from 'node:stream';
import { createGzip, createZstdCompress } from 'node:zlib';
import { errorCode } from '../domain/errors.ts';
import type { Compression, ExportFileWriter } from '../domain/exports/jobs.ts';
import { BLOCK_BYTES, readBlocks, writeAll } from './blocks.ts';

const encoder = new TextEncoder();

/** One gzip member or zstd frame: several readers, among them Node's for zstd, silently stop after the first. */
const PACKER: Readonly<Record<Exclude<Compression, 'none'>, () => Transform>> = {
  gzip: () => createGzip({ level: 5 }),
  zstd: () => createZstdCompress(),
};

export interface PartPlace {
  /** The text that an earlier attempt wrote. */
  readonly part: string;
  /** The new file until it replaces `part`. */
  readonly fresh: string;
  readonly target: string;
}

/**
 * Continues after the first `bytes` of the part; null if it is shorter. Copies them into a new file, because a process
 * whose lease expired may still write into the old one.
 */
export async function openPart(
  place: PartPlace,
  compression: Compression,
  bytes: number,
): Promise<ExportFileWriter | null> {
  const { part, fresh } = place;
  const handle = await open(fresh, 'w');
  try {
    const hash = createHash('sha256');
    if (await copied(part, bytes, handle, hash)) {
      await rename(fresh, part);
      return new PartFile(place, compression, handle, hash, bytes);
    }
  } catch (error) {
    await discard(handle, fresh);
    throw error;
  }
  await discard(handle, fresh);
  return null;
}

class PartFile implements ExportFileWriter {
  readonly #place: PartPlace;
  readonly #compression: Compression;
  readonly #handle: FileHandle;
  readonly #hash: Hash;
  #bytes: number;
  /** The same memory all the time: new buffers would be garbage faster than it is collected. */
  readonly #block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  #waiting = 0;

  constructor(place: PartPlace, compression: Compression, handle: FileHandle, hash: Hash, bytes: number) {
    this.#place = place;
    this.#compression = compression;
    this.#handle = handle;
    this.#hash = hash;
    this.#bytes = bytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  async write(text: string): Promise<void> {
    for (let rest = text; rest !== ''; ) {
      const { read, written } = encoder.encodeInto(rest, this.#block.subarray(this.#waiting));
      this.#waiting += written;
      rest = rest.slice(read);
      // No room for the next character, which takes four bytes at most.
      if (rest !== '') await this.#flush();
    }
  }

  async sync(): Promise<number> {
    await this.#flush();
    await this.#handle.datasync();
    return this.#bytes;
  }

  async finish(signal?: AbortSignal, onBlock?: () => void): Promise<{ bytes: number; sha256: string }> {
    await this.sync();
    const { part, fresh, target } = this.#place;
    if (this.#compression === 'none') {
      await this.#checkMine();
      await this.#handle.close();
      await rename(part, target);
      return { bytes: this.#bytes, sha256: this.#hash.digest('hex') };
    }
    try {
      const packed = await packInto(part, PACKER[this.#compression](), fresh, signal, onBlock);
      await this.#checkMine();
      await this.#handle.close();
      await rename(fresh, target);
      await rm(part, { force: true });
      return packed;
    } catch (error) {
      await rm(fresh, { force: true });
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  /** This process may have been taken for dead, and another one has begun again. */
  async #checkMine(): Promise<void> {
    const mine = await this.#handle.stat({ bigint: true });
    const named = await stat(this.#place.part, { bigint: true });
    if (mine.ino !== named.ino) throw new Error('another process writes the file of this export');
  }

  async #flush(): Promise<void> {
    if (this.#waiting === 0) return;
    const block = this.#block.subarray(0, this.#waiting);
    if (this.#compression === 'none') this.#hash.update(block);
    await writeAll(this.#handle, block, this.#bytes);
    this.#bytes += block.length;
    this.#waiting = 0;
  }
}

async function packInto(
  part: string,
  packer: Transform,
  to: string,
  signal: AbortSignal | undefined,
  onBlock: (() => void) | undefined,
) {
  const hash = createHash('sha256');
  const target = await open(to, 'w');
  let bytes = 0;
  const take = async () => {
    for await (const block of packer) {
      hash.update(block);
      await writeAll(target, block, bytes);
      bytes += block.length;
    }
  };
  const give = async () => {
    for await (const block of readBlocks(part)) {
      signal?.throwIfAborted();
      onBlock?.();
      await new Promise<void>((resolve, reject) => {
        packer.write(block, (error) => (error ? reject(error) : resolve()));
      });
    }
    packer.end();
  };
  try {
    await Promise.all([
      take(),
      give().catch((error: unknown) => {
        packer.destroy();
        throw error;
      }),
    ]);
    await target.datasync();
  } finally {
    await target.close();
  }
  return { bytes, sha256: hash.digest('hex') };
}

/** Hands on what is there already; false when so much is not there, or there is no room for it twice. */
async function copied(from: string, bytes: number, to: FileHandle, hash: Hash): Promise<boolean> {
  if (bytes === 0) return true;
  let position = 0;
  try {
    for await (const block of readBlocks(from, bytes)) {
      hash.update(block);
      await writeAll(to, block, position);
      position += block.length;
    }
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'ENOSPC' || code === 'EDQUOT') return false;
    throw error;
  }
  return position === bytes;
}

async function discard(handle: FileHandle, path: string): Promise<void> {
  await handle.close();
  await rm(path, { force: true });
}
