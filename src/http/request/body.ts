import type { Readable, Transform } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import type { Request } from 'express';
import getRawBody from 'raw-body';
import { AppError, errorCode } from '../../domain/errors.ts';
import { parseJson } from './json.ts';

const JSON_TYPE = /^application\/(?:json|[\w.+-]+\+json)\s*(?:;|$)/i;
const CHARSET = /;\s*charset\s*=\s*"?([^";\s]+)/i;

export type BodyReader = (request: Request) => Promise<unknown>;

/**
 * Reads JSON bodies. The type and the announced length are checked before anything is read.
 * @param limit bytes, after decompression
 */
export function createBodyReader(limit: number): BodyReader {
  return async (request) => {
    try {
      checkType(request.headers['content-type']);
      return parseJson(await readBytes(request, limit));
    } finally {
      // After an error the rest of the body is read and dropped: a sender reads the response only after its last byte.
      request.resume();
    }
  };
}

function checkType(type: string | undefined): void {
  if (type === undefined || !JSON_TYPE.test(type)) {
    throw new AppError('unsupported_media_type', 'Send the body as JSON with Content-Type: application/json');
  }
  const charset = CHARSET.exec(type)?.[1];
  if (charset !== undefined && !/^utf-?8$/i.test(charset)) {
    throw new AppError('unsupported_media_type', 'The charset of the body must be UTF-8');
  }
}

async function readBytes(request: Request, limit: number): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > limit) throw bodyTooLarge(limit);
  const decoder = decoderFor((request.headers['content-encoding'] ?? 'identity').toLowerCase());
  try {
    return await getRawBody(decoder ? inflate(request, decoder) : request, { limit });
  } catch (error) {
    throw readError(error, limit);
  } finally {
    decoder?.destroy();
  }
}

function decoderFor(encoding: string): Transform | undefined {
  switch (encoding) {
    case 'identity':
      return undefined;
    case 'gzip':
    case 'x-gzip':
      return createGunzip();
    case 'deflate':
      return createInflate();
    case 'br':
      return createBrotliDecompress();
    default:
      throw new AppError('unsupported_media_type', 'Content-Encoding must be gzip, deflate, br or identity');
  }
}

/** Not `pipeline`: on an error it would destroy the request, and with it the connection for the response. */
function inflate(request: Request, decoder: Transform): Readable {
  request.once('close', () => {
    if (!request.complete) decoder.destroy(new Error('request aborted'));
  });
  return request.pipe(decoder);
}

function readError(error: unknown, limit: number): AppError {
  if (error instanceof Error && 'type' in error && error.type === 'entity.too.large')
    return bodyTooLarge(limit);
  if (errorCode(error)?.startsWith('Z_'))
    return new AppError('malformed_request', 'The body does not match its Content-Encoding');
  return new AppError('malformed_request', 'The body did not arrive completely', { cause: error });
}

function bodyTooLarge(limit: number): AppError {
  return new AppError('body_too_large', `The body must be at most ${limit} bytes`);
}
