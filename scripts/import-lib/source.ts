import { stat } from 'node:fs/promises';
import { readBlocks } from '../../src/files/blocks.ts';
import { decompressed } from '../../src/http/request/import-file.ts';
import { unpacked } from '../export-lib/unpack.ts';

export interface Source {
  /** Each is valid until the next one is requested. */
  readonly blocks: AsyncIterable<Buffer>;
  /** The size of the stored file, before decompression; undefined for standard input. */
  readonly size: number | undefined;
}

const GZIP = Buffer.from([0x1f, 0x8b]);
const BLOCK = 64 * 1024;
const ZSTD = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);

/**
 * Opens a file, or standard input for `-`. Its first bytes decide whether it is decompressed.
 * @param onRead called with the number of stored bytes
 * @throws the file system's error
 */
export async function openSource(path: string, onRead: (bytes: number) => void): Promise<Source> {
  const size = path === '-' ? undefined : (await stat(path)).size;
  const stored: AsyncIterable<Buffer> = path === '-' ? process.stdin : readBlocks(path, undefined, BLOCK);
  const source = counted(stored, onRead);
  const { value: first = Buffer.alloc(0) } = await source.next();
  const all = startingWith(first, source);
  if (first.subarray(0, GZIP.length).equals(GZIP))
    return { blocks: decompressed(unpacked(all, 'gzip')), size };
  if (first.subarray(0, ZSTD.length).equals(ZSTD))
    return { blocks: decompressed(unpacked(all, 'zstd')), size };
  return { blocks: all, size };
}

async function* counted(
  blocks: AsyncIterable<Buffer>,
  onRead: (bytes: number) => void,
): AsyncGenerator<Buffer, undefined> {
  for await (const block of blocks) {
    onRead(block.length);
    yield block;
  }
  return undefined;
}

async function* startingWith(first: Buffer, rest: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  if (first.length > 0) yield first;
  yield* rest;
}
