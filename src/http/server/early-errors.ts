/** Problem responses for requests that do not reach the app. The connection is closed after each. */

import { randomUUID } from 'node:crypto';
import { type ServerResponse, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import type { AppError } from '../../domain/errors.ts';
import { lineJson } from '../../util/line-json.ts';
import { securityHeaderValues } from '../middleware/security.ts';
import { problemOf } from '../response/problem.ts';

const SECURITY = securityHeaderValues(false);

interface EarlyResponse {
  readonly status: number;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: string;
}

function earlyErrorResponse(error: AppError): EarlyResponse {
  const requestId = randomUUID();
  const body = lineJson(problemOf(error, '/', requestId));
  const headers: EarlyResponse['headers'] = [
    ...SECURITY,
    ['X-Request-Id', requestId],
    ['Content-Type', 'application/problem+json; charset=utf-8'],
    ['Content-Length', String(Buffer.byteLength(body))],
    ['Cache-Control', 'no-store'],
    ['Connection', 'close'],
    ...(error.retryAfter === undefined ? [] : [['Retry-After', String(error.retryAfter)] as const]),
    ...Object.entries(error.headers ?? {}),
  ];
  return { status: error.status, headers, body };
}

/** Answers a parsed request. Node keeps the order of pipelined responses. */
export function sendEarlyError(response: ServerResponse, error: AppError): void {
  const { status, headers, body } = earlyErrorResponse(error);
  for (const [name, value] of headers) response.setHeader(name, value);
  response.writeHead(status).end(body);
}

/** Answers on the bare socket, where the parser gave no request. */
export function sendEarlyErrorOn(socket: Duplex, error: AppError): void {
  const { status, headers, body } = earlyErrorResponse(error);
  const head = headers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${head}\r\n${body}`);
}
