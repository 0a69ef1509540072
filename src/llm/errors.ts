import type { IncomingMessage } from 'node:http';
import { AppError, type ErrorCode, errorCode } from '../domain/errors.ts';

/** What the log may contain: never a body, a message of the model server, or a header of ours. */
export interface UpstreamErrorDetails {
  readonly status?: number | undefined;
  readonly requestId?: string | undefined;
  /** What happened, in our own words, or the system's error code. */
  readonly reason?: string | undefined;
}

interface UpstreamErrorOptions extends UpstreamErrorDetails {
  readonly detail?: string;
  readonly retryable?: boolean;
  readonly retryAfterMs?: number | undefined;
}

/** `Retry-After` for callers when a busy model server sent none. */
const DEFAULT_BUSY_SECONDS = 5;

/** One failed attempt: the error for the caller if it was the last, and whether to retry. */
export class UpstreamError extends Error {
  readonly error: AppError;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly details: UpstreamErrorDetails;

  constructor(code: ErrorCode, options: UpstreamErrorOptions = {}) {
    const { detail, retryable = false, retryAfterMs, ...details } = options;
    super(code);
    this.name = 'UpstreamError';
    const seconds = retryAfterMs === undefined ? DEFAULT_BUSY_SECONDS : Math.ceil(retryAfterMs / 1000);
    // No cause: errors of the HTTP layer may quote the headers, and with them the key.
    this.error = new AppError(code, detail, code === 'upstream_busy' ? { retryAfter: seconds } : {});
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
    this.details = details;
  }
}

/** The error that a response's head reports, or undefined when its body is a reply. */
export function classifyResponse(response: IncomingMessage): UpstreamError | undefined {
  const status = response.statusCode ?? 0;
  const details = { status, requestId: requestIdOf(response) };
  if (status >= 200 && status < 300) {
    // The request accepts no other encoding.
    if ((response.headers['content-encoding'] ?? 'identity') === 'identity') return undefined;
    return new UpstreamError('upstream_error', { reason: 'the response is compressed' });
  }
  if (status === 401 || status === 403) {
    const detail = 'The model server rejected the API key of this server.';
    return new UpstreamError('upstream_error', { ...details, detail });
  }
  if (isTransient(status)) {
    const code = status === 429 || status === 503 ? 'upstream_busy' : 'upstream_error';
    const retryable = response.headers['x-should-retry'] !== 'false';
    return new UpstreamError(code, { ...details, retryable, retryAfterMs: retryAfterOf(response) });
  }
  const hint = status < 400 ? 'check its base URL' : 'check the model name or the length of the context';
  const detail = `The model server rejected the request with status ${status}; ${hint}.`;
  return new UpstreamError('upstream_rejected', { ...details, detail });
}

function isTransient(status: number): boolean {
  return status === 408 || status === 409 || status === 429 || status >= 500;
}

/** The connection failed before the reply began. */
export function connectionError(cause: unknown): UpstreamError {
  return new UpstreamError('upstream_error', {
    detail: 'The connection to the model server failed.',
    reason: errorCode(cause) ?? 'connection failed',
    retryable: true,
  });
}

export function requestIdOf(response: IncomingMessage): string | undefined {
  const id = response.headers['x-request-id'];
  return typeof id === 'string' && /^[\w.:-]{1,128}$/.test(id) ? id : undefined;
}

/** Milliseconds from `Retry-After` (seconds or a date, RFC 9110 10.2.3) or OpenAI's `retry-after-ms`. */
function retryAfterOf({ headers }: IncomingMessage): number | undefined {
  const milliseconds = headers['retry-after-ms'];
  if (typeof milliseconds === 'string' && /^\d+(\.\d+)?$/.test(milliseconds)) return Number(milliseconds);
  const value = headers['retry-after'];
  if (value === undefined) return undefined;
  if (/^\d+(\.\d+)?$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}
