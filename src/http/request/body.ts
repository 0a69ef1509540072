import { pipeline, Readable, type Transform } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import type { Request } from 'express';
import getRawBody from 'raw-body';
import { AppError, errorCode } from '../../domain/errors.ts';
import { CutBody } from './image-data.ts';
import { parseJson } from './json.ts';

const JSON_TYPE = /^application\/(?:json|[\w.+-]+\+json)\s*(?:;|$)/i;
const CHARSET = /;\s*charset\s*=\s*"?([^";\s]+)/i;

export type BodyReader = (request: Request) => Promise<unknown>;

/** At most so many bodies with images of the maximum size are in memory at the same time. */
const MAX_LARGE = 16;
/** The memory of a buffer besides its bytes: a sender may send single bytes. */
const BLOCK_OVERHEAD = 200;

/**
 * Reads JSON bodies. The type and the announced length are checked before anything is read.
 * @param limit bytes, after decompression
 * @param imageBytes how much longer a body may be by `data:` URLs of images in its message
 */
export function createBodyReader(limit: number, imageBytes = 0): BodyReader {
  /** How many bytes all bodies in memory have together beyond `limit` each. */
  let excess = 0;
  return async (request) => {
    const mayBeLarge = imageBytes > 0 && !hasLengthUpTo(limit, request);
    let own = 0;
    const onSize = (size: number) => {
      const added = Math.max(0, size - limit) - own;
      if (added > 0 && excess + added > MAX_LARGE * imageBytes) throw bodiesTooLarge();
      own += added;
      excess += added;
    };
    try {
      checkType(request.headers['content-type']);
      if (!mayBeLarge) return parseJson(await readBytes(request, limit));
      return await parseCut(await readCut(request, limit, imageBytes, onSize), limit);
    } finally {
      excess -= own;
      // After an error the rest of the body is read and dropped: a sender reads the response only after its last byte.
      request.resume();
    }
  };
}

/**
 * Receives a long body. It is kept as it was sent, and decompressed while it is read. The caller resumes the request.
 * @param limit bytes, also after decompression
 * @param hold called with the memory that each part takes; an AppError that it throws ends the reading
 * @throws AppError `body_too_large`, `malformed_request`, `unsupported_media_type`
 */
export async function receiveBlocks(
  request: Request,
  limit: number,
  hold: (bytes: number) => void,
): Promise<AsyncIterable<Buffer>> {
  try {
    if (Number(request.headers['content-length'] ?? 0) > limit) throw bodyTooLarge(limit);
    const encoding = (request.headers['content-encoding'] ?? 'identity').toLowerCase();
    const decode = (blocks: Iterable<Buffer>): AsyncIterable<Buffer> => {
      const decoder = decoderFor(encoding);
      const source = Readable.from(blocks);
      // Errors reach the reader of the decoder.
      return decoder ? pipeline(source, decoder, () => {}) : source;
    };
    const blocks: Buffer[] = [];
    const sent = limited(request.iterator({ destroyOnReturn: false }), limit);
    for await (const block of sent) {
      hold(block.length + BLOCK_OVERHEAD);
      blocks.push(block);
    }
    // Nothing is done with a body that is damaged or too long.
    for await (const _ of limited(decode(blocks), limit));
    return decode(blocks);
  } catch (error) {
    throw readError(error, limit);
  }
}

async function* limited(blocks: AsyncIterable<Buffer>, limit: number): AsyncGenerator<Buffer> {
  let left = limit;
  for await (const block of blocks) {
    left -= block.length;
    if (left < 0) throw bodyTooLarge(limit);
    yield block;
  }
}

/** Whether the length is known, and at most so much. */
function hasLengthUpTo(limit: number, { headers }: Request): boolean {
  const isPlain = /^(?:identity)?$/i.test(headers['content-encoding'] ?? '');
  return isPlain && Number(headers['content-length'] ?? Number.POSITIVE_INFINITY) <= limit;
}

function bodiesTooLarge(): AppError {
  const detail = 'Too many large messages arrive at the same time; try again in a moment.';
  return new AppError('capacity', detail, { retryAfter: 1 });
}

/**
 * @param onSize called with the size so far; an AppError that it throws ends the reading
 * @throws AppError `body_too_large` as soon as it is too long without its images, or they are too long
 */
async function readCut(
  request: Request,
  limit: number,
  imageBytes: number,
  onSize: (size: number) => void,
): Promise<CutBody> {
  const body = new CutBody();
  await withBody(request, limit, limit + imageBytes, async (stream) => {
    for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
      body.push(chunk);
      const size = body.restBytes + body.urlBytes;
      if (body.restBytes > limit || size > limit + imageBytes) throw bodyTooLarge(limit);
      onSize(size);
    }
  });
  return body;
}

/** @throws AppError `body_too_large` when it is too long without the images of its message */
async function parseCut(body: CutBody, limit: number): Promise<unknown> {
  const parseRest = () => {
    if (body.restBytes > limit) throw bodyTooLarge(limit);
    return parseJson(body.rest());
  };
  body.end();
  let parsed = parseRest();
  if (body.keepOnlyImages(parsed)) parsed = parseRest();
  await body.restore(parsed);
  return parsed;
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

function readBytes(request: Request, limit: number): Promise<Buffer> {
  return withBody(request, limit, limit, (stream) => getRawBody(stream, { limit }));
}

/** @param max bytes that it may announce */
async function withBody<T>(
  request: Request,
  limit: number,
  max: number,
  read: (stream: Readable) => Promise<T>,
): Promise<T> {
  if (Number(request.headers['content-length'] ?? 0) > max) throw bodyTooLarge(limit);
  const decoder = decoderFor((request.headers['content-encoding'] ?? 'identity').toLowerCase());
  try {
    return await read(decoder ? inflate(request, decoder) : request);
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

/** Error codes of zlib, and of brotli, such as `ERR__ERROR_FORMAT_PADDING_2`. */
const DAMAGED = /^Z_|^ERR_\w*ERROR_FORMAT_/;

function readError(error: unknown, limit: number): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof Error && 'type' in error && error.type === 'entity.too.large')
    return bodyTooLarge(limit);
  if (DAMAGED.test(errorCode(error) ?? ''))
    return new AppError('malformed_request', 'The body does not match its Content-Encoding');
  return new AppError('malformed_request', 'The body did not arrive completely', { cause: error });
}

function bodyTooLarge(limit: number): AppError {
  return new AppError('body_too_large', `The body must be at most ${limit} bytes`);
}
