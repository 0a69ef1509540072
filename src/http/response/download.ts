import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createBrotliCompress, createGzip, createZstdCompress } from 'node:zlib';
import type { Request, Response } from 'express';

/** A file that is generated while it is sent. */
export interface Download {
  readonly name: string;
  readonly type: string;
  /** The names of the trailer fields; empty: none. */
  readonly trailers: readonly string[];
  /** Not called for HEAD. An error here still becomes an ordinary problem response. */
  open(): Promise<{
    readonly chunks: AsyncIterable<Buffer>;
    /** The values of the trailer fields, called after the last chunk. */
    trailers(): Readonly<Record<string, string>>;
  }>;
}

/** Levels that keep up with the database. Brotli's default is meant for static files. */
const ENCODERS: Readonly<Record<string, () => Duplex & { flush(): void }>> = {
  gzip: () => createGzip({ level: 5 }),
  br: () => createBrotliCompress({ params: { [constants.BROTLI_PARAM_QUALITY]: 4 } }),
  zstd: () => createZstdCompress(),
};

const TE_TRAILERS = /(?:^|,)\s*trailers\s*(?:,|$)/i;

/**
 * Streams the file with backpressure, in the content coding that the client prefers. An error after the first byte
 * breaks the connection. A client that leaves ends the generation.
 * @throws the error of `open` or of the chunks
 */
export async function sendDownload(request: Request, response: Response, download: Download): Promise<void> {
  response.vary('Accept-Encoding');
  const encoding = request.acceptsEncodings(['gzip', 'br', 'zstd', 'identity']) || 'identity';
  const withTrailers = download.trailers.length > 0 && acceptsTrailers(request);
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
  response.writeHead(200, { ...headers, ...(withTrailers ? { Trailer: download.trailers.join(', ') } : {}) });
  response.flushHeaders();
  const failures: unknown[] = [];
  async function* body() {
    try {
      yield* chunks;
    } catch (error) {
      failures.push(error);
      throw error;
    }
    if (withTrailers) response.addTrailers(trailers());
  }
  const encoder = ENCODERS[encoding]?.();
  // A pipeline with an encoder adds six listeners to those of the middleware.
  response.setMaxListeners(20);
  try {
    await (encoder ? pipeline(flushFirst(body(), encoder), encoder, response) : pipeline(body(), response));
  } catch {
    // The connection is broken. Unless the chunks have failed, the client has left.
    if (failures.length > 0) throw failures[0];
  }
}

function acceptsTrailers({ httpVersion, headers }: Request): boolean {
  const { te } = headers;
  return httpVersion === '1.1' && typeof te === 'string' && TE_TRAILERS.test(te);
}

/** Flushes the encoder after the first chunk, so that the client gets it immediately. */
async function* flushFirst(
  chunks: AsyncIterable<Buffer>,
  encoder: { flush(): void },
): AsyncGenerator<Buffer> {
  let first = true;
  for await (const chunk of chunks) {
    yield chunk;
    if (first) encoder.flush();
    first = false;
  }
}
