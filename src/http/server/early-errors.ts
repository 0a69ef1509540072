/** Problem responses for requests that do not reach the app. The connection is closed after each. */

import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import type { AppError } from '../../domain/errors.ts';
import { lineJson } from '../../util/line-json.ts';
import { securityHeaderValues } from '../middleware/security.ts';
import { isOpenAiPath, presentOpenAiError } from '../openai/errors.ts';
import { requestIdOf } from '../request/correlation.ts';
import { readTarget } from '../request/target.ts';
import { pathOf, problemOf } from '../response/problem.ts';

const SECURITY = securityHeaderValues(false);

interface EarlyResponse {
  readonly status: number;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: string;
}

type EarlyRequest = Pick<IncomingMessage, 'url' | 'headers'>;

/** For a request of which nothing is known. */
const UNKNOWN: EarlyRequest = { url: '/', headers: {} };

function earlyErrorResponse(
  error: AppError,
  { url = '/', headers: sent }: EarlyRequest,
  requestId = requestIdOf(sent),
): EarlyResponse {
  const [type, document] = isOpenAiPath(url)
    ? ['application/json', presentOpenAiError(error)]
    : ['application/problem+json', problemOf(error, instanceOf(url), requestId)];
  const body = lineJson(document);
  const headers: EarlyResponse['headers'] = [
    ...SECURITY,
    ['X-Request-Id', requestId],
    ['Content-Type', `${type}; charset=utf-8`],
    ['Content-Length', String(Buffer.byteLength(body))],
    ['Cache-Control', 'no-store'],
    ['Connection', 'close'],
    ...(error.retryAfter === undefined ? [] : [['Retry-After', String(error.retryAfter)] as const]),
    ...Object.entries(error.headers ?? {}),
  ];
  return { status: error.status, headers, body };
}

/** The path that the app would route or redirect to. */
function instanceOf(url: string): string {
  const target = readTarget(url);
  if (target.kind === 'bad') return '/';
  return pathOf({ url: target.kind === 'route' ? target.url : target.location });
}

/** Answers a parsed request. Node keeps the order of pipelined responses. */
export function sendEarlyError(response: ServerResponse, error: AppError): void {
  const { status, headers, body } = earlyErrorResponse(error, response.req);
  for (const [name, value] of headers) response.setHeader(name, value);
  response.writeHead(status).end(body);
}

/**
 * Answers on the bare socket, where no response can be used.
 * @param request undefined where the parser gave none
 * @param requestId the one that the app has given the request
 */
export function sendEarlyErrorOn(
  socket: Duplex,
  error: AppError,
  request: EarlyRequest = UNKNOWN,
  requestId?: string,
): void {
  const { status, headers, body } = earlyErrorResponse(error, request, requestId);
  const head = headers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${head}\r\n${body}`);
}
