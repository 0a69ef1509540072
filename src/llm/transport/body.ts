import type { IncomingMessage } from 'node:http';
import { PassThrough, type Readable, type Transform } from 'node:stream';
import {
  constants,
  createBrotliDecompress,
  createGunzip,
  createInflate,
  createInflateRaw,
  createZstdDecompress,
} from 'node:zlib';
import { UpstreamError } from '../errors.ts';

/** Data without its last bytes is decompressed as far as possible. HTTP's framing reports a response that was cut. */
const LENIENT = { finishFlush: constants.Z_SYNC_FLUSH };
const TEXT = 'text';

/**
 * The decompressed body of a response. The requests accept no compression, but some proxies compress anyway, and some
 * leave `Content-Encoding` on a body that they have decompressed. Errors of the response become errors of the result.
 */
export function decodedBody(response: IncomingMessage): Readable {
  const encoding = (response.headers['content-encoding'] ?? 'identity').trim().toLowerCase();
  if (encoding === 'identity' || encoding === '') return response;
  const body = new PassThrough();
  const fail = (reason: string) =>
    body.destroy(new UpstreamError('upstream_error', { status: response.statusCode, reason }));
  response.once('error', (error) => body.destroy(error));
  response.once('readable', () => {
    const first: Buffer | null = response.read();
    if (first) response.unshift(first);
    const decoder = decoderFor(encoding, first ?? Buffer.alloc(0));
    if (decoder === undefined) fail('the content encoding is unknown');
    else if (decoder === TEXT) response.pipe(body);
    else response.pipe(decoder.once('error', () => fail('the response cannot be decompressed'))).pipe(body);
  });
  return body;
}

/** Chooses the decoder by the first bytes if they identify the format, otherwise by the header. */
function decoderFor(encoding: string, first: Buffer): Transform | typeof TEXT | undefined {
  const isZlib = ((first[0] ?? 0) & 0x0f) === 8 && first.length > 1 && first.readUInt16BE(0) % 31 === 0;
  switch (encoding) {
    case 'gzip':
    case 'x-gzip':
      return first[0] === 0x1f && first[1] === 0x8b ? createGunzip(LENIENT) : TEXT;
    case 'deflate':
      // RFC 9110 means the zlib format; some servers send raw deflate data.
      return isZlib ? createInflate(LENIENT) : createInflateRaw(LENIENT);
    case 'br':
      return createBrotliDecompress({ finishFlush: constants.BROTLI_OPERATION_FLUSH });
    case 'zstd':
      return createZstdDecompress({ finishFlush: constants.ZSTD_e_flush });
    default:
      return undefined;
  }
}

const ERROR_BODY_BYTES = 64 * 1024;
const ERROR_BODY_MS = 1000;

/** The text of an error response: what arrives within a second, up to 64 KiB. Never rejects. */
export function readErrorText(response: IncomingMessage): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const body = decodedBody(response).setEncoding('utf8');
    const finish = () => {
      clearTimeout(timer);
      body.off('data', take);
      resolve(text);
    };
    const take = (piece: string) => {
      text += piece;
      if (text.length >= ERROR_BODY_BYTES) finish();
    };
    const timer = setTimeout(finish, ERROR_BODY_MS);
    body.on('data', take).once('end', finish).once('error', finish);
  });
}
