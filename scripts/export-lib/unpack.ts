import { pipeline, Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { Compression } from '../../src/domain/exports/jobs.ts';

/** The decompressed content. A gzip file may have several members, as the purge archive has. */
export function unpacked(source: AsyncIterable<Buffer>, compression: Compression): AsyncIterable<Buffer> {
  if (compression === 'none') return source;
  const transform = compression === 'gzip' ? createGunzip() : createZstdDecompress();
  // Errors reach the reader of the transform.
  return pipeline(Readable.from(copies(source), { objectMode: false }), transform, () => {});
}

/** Copies each block, because a stream reads ahead and the source reuses its block. */
export async function* copies(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const block of source) yield Buffer.from(block);
}
