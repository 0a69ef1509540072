import type { IncomingMessage } from 'node:http';
import { AppError, type ErrorCode, errorCode } from '../domain/errors.ts';
import { isTooLong } from './refusals.ts';
import { type ReportedError, readErrorBody } from './reported-error.ts';

/** For decisions and for the log, never for callers. */
export interface UpstreamErrorDetails {
  readonly status?: number | undefined;
  readonly requestId?: string | undefined;
  /** What happened: a fixed phrase of this server, or the system's error code. */
  readonly reason?: string | undefined;
  /** What the model server said. */
  readonly reported?: ReportedError | undefined;
}

interface UpstreamErrorOptions extends UpstreamErrorDetails {
  readonly detail?: string;
  readonly retryable?: boolean;
  readonly retryAfterMs?: number | undefined;
}

/** `Retry-After` for callers when a busy model server sent none. */
const DEFAULT_BUSY_SECONDS = 5;

/** A failed attempt. `error` is for the caller if no attempt follows. */
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
    // Without `cause`: errors of the HTTP client may quote the headers, which contain the API key.
    this.error = new AppError(code, detail, code === 'upstream_busy' ? { retryAfter: seconds } : {});
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
    this.details = details;
    if (details.status !== undefined) statuses.set(this.error, details.status);
  }
}

/** For an error of a call, the status of the response that caused it. */
const statuses = new WeakMap<AppError, number>();

/**
 * Whether the model server rejected the request as invalid (400 or 422), so that another server would reject it too.
 */
export function rejectsTheRequest(error: unknown): boolean {
  const status = error instanceof AppError ? statuses.get(error) : undefined;
  return status === 400 || status === 422;
}

/** The facts about an error response besides its body. */
interface ResponseFacts {
  /** The status of the response. Undefined: it is the status that the error is classified by. */
  readonly httpStatus?: number | undefined;
  readonly requestId: string | undefined;
  /** Undefined: the status decides. */
  readonly retryable?: boolean | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly reason?: string;
}

/** The error for a response whose status is not 2xx. */
export function classifyResponse(response: IncomingMessage, body: string): UpstreamError {
  return classifyError(response.statusCode ?? 0, readErrorBody(body), {
    requestId: requestIdOf(response),
    retryAfterMs: retryAfterOf(response),
    retryable: response.headers['x-should-retry'] === 'false' ? false : undefined,
  });
}

/** The error for a status and the error that the model server reports. */
export function classifyError(
  status: number,
  reported: ReportedError | undefined,
  { requestId, reason, retryAfterMs, ...facts }: ResponseFacts,
): UpstreamError {
  const details = { status: facts.httpStatus ?? status, requestId, reason, reported };
  const cause = CAUSES.find((known) => isCause(known, status, reported));
  if (cause) return new UpstreamError(cause.code, { ...details, detail: cause.detail });
  if (isTooLong(details)) return new UpstreamError('upstream_rejected', { ...details, detail: TOO_LONG });
  if (isTransient(status)) {
    const code = status === 429 || status === 503 ? 'upstream_busy' : 'upstream_error';
    return new UpstreamError(code, { ...details, retryable: facts.retryable ?? true, retryAfterMs });
  }
  if (status < 300) return new UpstreamError('upstream_error', details);
  const detail = `The model server rejected the request with status ${status}; ${hintFor(status)}.`;
  return new UpstreamError('upstream_rejected', { ...details, detail });
}

const TOO_LONG =
  'The conversation is too long for this model; shorten the message, or start a new conversation.';

interface Cause {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly status?: number;
  /** Matches `code` and `type` without punctuation. */
  readonly names?: RegExp;
  /** Matches the message, for servers that send no code. Not used with a transient status. */
  readonly words?: RegExp;
}

/** Causes that no retry removes, the most specific first. */
const CAUSES: readonly Cause[] = [
  {
    code: 'upstream_filtered',
    detail: 'The content filter of the model server blocked the request; change the message.',
    names:
      /contentfilter|contentpolicy|contentmoderation|datainspection|responsibleai|sensitivecontent|prohibitedcontent/i,
    words: /content exists risk|content management policy|敏感内容|content[_ ]filter/i,
  },
  {
    code: 'upstream_quota',
    detail:
      'The account of this server at the model server has no credit or quota left; top it up or raise its limit.',
    status: 402,
    names:
      /insufficient(quota|balance|funds|credits?)|exceededcurrentquota|billing|arrearage|paymentrequired|^1113\b/i,
    words: /insufficient (balance|funds|credits?)|credit balance is too low|余额不足|欠费/i,
  },
  {
    code: 'upstream_error',
    detail: 'The model server rejected the API key of this server; check OPENAI_API_KEY.',
    status: 401,
    names: /invalidapikey|incorrectapikey|invalidauthentication|authenticationerror/i,
    words: /api key not valid/i,
  },
  {
    code: 'upstream_error',
    detail: 'The model server denied access; check what OPENAI_API_KEY may use.',
    status: 403,
  },
  {
    code: 'upstream_rejected',
    detail: 'The model server does not know this model; check its name.',
    names: /modelnot(found|exist)|unknownmodel|invalidmodel/i,
    words:
      /\bmodel\b.{0,100}\b(not found|not exist|unknown|does not exist|not supported)|(unknown|invalid) model/i,
  },
  {
    code: 'upstream_rejected',
    detail:
      'The model server has nothing at this address (404); check the model name, and whether OPENAI_BASE_URL lacks /v1.',
    status: 404,
  },
];

function isCause({ status, names, words }: Cause, actual: number, reported: ReportedError = {}): boolean {
  const { code = '', type = '', message = '' } = reported;
  const isNamed = names?.test(`${code} ${type}`.replaceAll(/[_.-]/g, '')) ?? false;
  return actual === status || isNamed || (!isTransient(actual) && (words?.test(message) ?? false));
}

function hintFor(status: number): string {
  if (status < 400) return 'check OPENAI_BASE_URL';
  return 'check the model, the parameters and the length of the conversation';
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
