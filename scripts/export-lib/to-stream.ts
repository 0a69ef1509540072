import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip, createZstdCompress } from 'node:zlib';
import type { ExportRequest } from '../../src/domain/exports/jobs.ts';
import type { ExportService } from '../../src/services/exports/exports.ts';
import { EMPTY_CHECKPOINT } from '../../src/services/exports/write-export.ts';
import type { Progress } from './progress.ts';

/** Exports to a stream, with backpressure. Rejects with the signal's reason when it is aborted. */
export async function exportToStream(
  exports: ExportService,
  request: ExportRequest,
  target: Writable,
  progress: Progress,
  stop: AbortSignal,
): Promise<void> {
  const scope = await exports.fixScope(request);
  let bytes = 0;
  async function* chunks() {
    progress.begin(scope, EMPTY_CHECKPOINT);
    for await (const { text, state } of exports.fileText(request, scope, EMPTY_CHECKPOINT)) {
      stop.throwIfAborted();
      const chunk = Buffer.from(text);
      bytes += chunk.length;
      progress.update({ ...state, bytes });
      if (chunk.length > 0) yield chunk;
    }
  }
  const source = Readable.from(chunks(), { objectMode: false });
  switch (request.compression) {
    case 'none':
      return pipeline(source, target);
    case 'gzip':
      return pipeline(source, createGzip(), target);
    case 'zstd':
      return pipeline(source, createZstdCompress(), target);
  }
}
