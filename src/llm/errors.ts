import type { IncomingMessage } from 'node:http';
import { AppError, type ErrorCode } from '../domain/errors.ts';

/** What the log may know of a fault: never a body, a message of the other side, or a header that we sent. */
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

/** Callers of a busy server that did not say when to come back. */
const DEFAULT_BUSY_SECONDS = 5;

/** One failed attempt: what to tell the caller if it was the last, and whether another one makes sense. */
export class UpstreamError extends Error {
  readonly error: AppError;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly details: UpstreamErrorDetails;

  constructor(code: ErrorCode, options: UpstreamErrorOptions = {}) {
    const { detail, retryable = false, retryAfterMs, ...details } = options;
    super(code);
    this.name = 'UpstreamFault';
    const seconds = retryAfterMs === undefined ? DEFAULT_BUSY_SECONDS : Math.ceil(retryAfterMs / 1000);
    // No cause: errors of the HTTP layer may quote the headers, and with them the key.
    this.error = new AppError(code, detail, code === 'upstream_busy' ? { retryAfter: seconds } : {});
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
    this.details = details;
  }
}

/** The fault in an answer's head, or undefined when its body is a reply. */
export function classifyResponse(answer: IncomingMessage): UpstreamError | undefined {
  const status = answer.statusCode ?? 0;
  if (status >= 200 && status < 300) return undefined;
  const about = { status, requestId: requestIdOf(answer) };
  if (status === 401 || status === 403) {
    return new UpstreamError('upstream_error', { ...about, detail: 'The model server refused this server.' });
  }
  if (isPassing(status)) {
    const code = status === 429 || status === 503 ? 'upstream_busy' : 'upstream_error';
    const retryable = answer.headers['x-should-retry'] !== 'false';
    return new UpstreamError(code, { ...about, retryable, retryAfterMs: retryAfterOf(answer) });
  }
  const hint = status < 400 ? 'check its base URL' : 'check the model name or the length of the context';
  const detail = `The model server refused the request with status ${status}; ${hint}.`;
  return new UpstreamError('upstream_rejected', { ...about, detail });
}

/** Trouble that is often over a moment later. */
function isPassing(status: number): boolean {
  return status === 408 || status === 409 || status === 429 || status >= 500;
}

export function requestIdOf(answer: IncomingMessage): string | undefined {
  const id = answer.headers['x-request-id'];
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
