import { pipeline, Readable, type Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { Compression } from '../../src/domain/export-jobs.ts';

/** What is in a packed file, whose blocks may be used anew once the next is asked for; gzip may have several members, as the archive has. */
export function unpacked(source: AsyncIterable<Buffer>, compression: Compression): AsyncIterable<Buffer> {
  switch (compression) {
    case 'none':
      return source;
    case 'gzip':
      return through(source, createGunzip());
    case 'zstd':
      return through(source, createZstdDecompress());
  }
}

function through(source: AsyncIterable<Buffer>, unpack: Transform): AsyncIterable<Buffer> {
  // Errors come out of what is read.
  return pipeline(Readable.from(copies(source), { objectMode: false }), unpack, () => {});
}

/** A stream may ask for the next block before it is through with one. */
async function* copies(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const block of source) yield Buffer.from(block);
}
