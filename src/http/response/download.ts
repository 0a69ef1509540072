import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createBrotliCompress, createGzip, createZstdCompress } from 'node:zlib';
import type { Request, Response } from 'express';

/** A file that is made while it is sent. */
export interface Download {
  readonly name: string;
  readonly type: string;
  /** The fields that may follow the body; empty: none. */
  readonly trailers: readonly string[];
  /** Not called for HEAD. What it rejects with can still become an ordinary answer. */
  open(): Promise<{
    readonly chunks: AsyncIterable<Buffer>;
    /** The fields' values, asked for after the last chunk. */
    trailers(): Readonly<Record<string, string>>;
  }>;
}

/** Speeds that keep up with a database: the defaults of brotli are for files that are packed once. */
const ENCODERS: Readonly<Record<string, () => Duplex & { flush(): void }>> = {
  gzip: () => createGzip({ level: 5 }),
  br: () => createBrotliCompress({ params: { [constants.BROTLI_PARAM_QUALITY]: 4 } }),
  zstd: () => createZstdCompress(),
};

const TAKES_TRAILERS = /(?:^|,)\s*trailers\s*(?:,|$)/i;

/**
 * Streams the file with backpressure, packed as the client likes it best. A fault after the first byte breaks the
 * connection; a client that leaves ends the making.
 * @throws what `open` rejects with, and what broke the making
 */
export async function sendDownload(request: Request, response: Response, download: Download): Promise<void> {
  response.vary('Accept-Encoding');
  const encoding = request.acceptsEncodings(['gzip', 'br', 'zstd', 'identity']) || 'identity';
  const trailing = download.trailers.length > 0 && takesTrailers(request);
  const headers = {
    'Content-Type': download.type,
    'Content-Disposition': `attachment; filename="${download.name}"`,
    'Cache-Control': 'no-store',
    ...(encoding === 'identity' ? {} : { 'Content-Encoding': encoding }),
  };
  if (request.method === 'HEAD') {
    response.writeHead(200, headers).end();
    return;
  }
  const { chunks, trailers } = await download.open();
  response.writeHead(200, { ...headers, ...(trailing ? { Trailer: download.trailers.join(', ') } : {}) });
  response.flushHeaders();
  const fault: { reason?: unknown } = {};
  const body = watched(chunks, fault, () => {
    if (trailing) response.addTrailers(trailers());
  });
  const packer = ENCODERS[encoding]?.();
  try {
    await (packer ? pipeline(flushedOnce(body, packer), packer, response) : pipeline(body, response));
  } catch {
    // The connection is broken by now. Without a fault of the making the client has left, and that is no fault.
    if ('reason' in fault) throw fault.reason;
  }
}

function takesTrailers({ httpVersion, headers }: Request): boolean {
  const { te } = headers;
  return httpVersion === '1.1' && typeof te === 'string' && TAKES_TRAILERS.test(te);
}

async function* watched(
  chunks: AsyncIterable<Buffer>,
  fault: { reason?: unknown },
  ended: () => void,
): AsyncGenerator<Buffer> {
  try {
    yield* chunks;
  } catch (error) {
    fault.reason = error;
    throw error;
  }
  ended();
}

/** The first chunk does not wait in the packer for more. */
async function* flushedOnce(
  chunks: AsyncIterable<Buffer>,
  packer: { flush(): void },
): AsyncGenerator<Buffer> {
  let first = true;
  for await (const chunk of chunks) {
    yield chunk;
    if (first) packer.flush();
    first = false;
  }
}
