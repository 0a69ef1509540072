import type { Transform } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import type { Request } from 'express';
import { AppError } from '../../domain/errors.ts';
import { jsonFaultAt, MAX_DEPTH, tooDeep } from './json-errors.ts';

const JSON_TYPE = /^application\/(?:json|[\w.+-]+\+json)\s*(?:;|$)/i;
const CHARSET = /;\s*charset\s*=\s*"?([^";\s]+)/i;

function checkType(type: string | undefined): void {
  if (type === undefined || !JSON_TYPE.test(type)) {
    throw new AppError(
      'unsupported_media_type',
      'The body must be JSON, said by Content-Type: application/json',
    );
  }
  const charset = CHARSET.exec(type)?.[1];
  if (charset !== undefined && !/^utf-?8$/i.test(charset)) {
    throw new AppError('unsupported_media_type', 'The body must be in UTF-8');
  }
}

function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new AppError('malformed_json', 'The body is not valid UTF-8');
  }
}

/**
 * The JSON value of a body. Of members with the same name the last one counts, for checking and for use.
 * @throws AppError `malformed_json`, with the position and without a word of the body
 */
export function parseJson(bytes: Uint8Array): unknown {
  const text = decode(bytes);
  if (tooDeep(text)) throw new AppError('malformed_json', `The body nests deeper than ${MAX_DEPTH} levels`);
  try {
    return JSON.parse(text);
  } catch {
    const at = jsonFaultAt(text);
    throw new AppError(
      'malformed_json',
      at === text.length
        ? `The JSON ends too early, at position ${at}`
        : `The body is no JSON from position ${at} on`,
    );
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

const tooLarge = (limit: number) => new AppError('body_too_large', `The body must be at most ${limit} bytes`);

/**
 * The bytes of a body, inflated, at most `limit` of them. Not Express's own reader: that answers a body that is too
 * large only after it has read all of it.
 */
async function readBytes(request: Request, limit: number): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > limit) throw tooLarge(limit);
  const decoder = decoderFor((request.headers['content-encoding'] ?? 'identity').toLowerCase());
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const pieces: Buffer[] = [];
  let size = 0;
  const source = decoder ?? request;
  source.on('data', (piece: Buffer) => {
    size += piece.length;
    if (size > limit) reject(tooLarge(limit));
    else pieces.push(piece);
  });
  source.on('end', () => resolve(Buffer.concat(pieces, size)));
  const cutShort = (cause?: Error) => {
    if (!request.complete)
      reject(new AppError('malformed_request', 'The body did not arrive whole', { cause }));
  };
  request.on('close', cutShort);
  request.on('error', cutShort);
  if (decoder) {
    decoder.on('error', () => reject(new AppError('malformed_request', 'The body cannot be decompressed')));
    request.pipe(decoder);
  }
  try {
    return await promise;
  } finally {
    source.removeAllListeners('data');
    if (decoder) {
      request.unpipe(decoder);
      decoder.destroy();
    }
  }
}

/**
 * Reads JSON bodies: the type is checked before anything is read, the limit holds for the inflated body too.
 * @param limit bytes
 */
export function createBodyReader(limit: number): (request: Request) => Promise<unknown> {
  return async (request) => {
    try {
      checkType(request.headers['content-type']);
      return parseJson(await readBytes(request, limit));
    } finally {
      // After a refusal: what is still to come is read and thrown away, so that the sender gets to read the answer.
      request.resume();
    }
  };
}
