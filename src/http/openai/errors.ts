/** Errors in the form of OpenAI's API. */
import type { Response } from 'express';
import type { AppError, ErrorCode } from '../../domain/errors.ts';

const BELOW_V1 = /^(?:https?:\/\/[^/?#]*)?\/+v1(?:[/?]|$)/i;

/**
 * Whether the path of a request is below `/v1`, where clients read OpenAI's errors.
 * @param url the target of the request as it was sent
 */
export function isOpenAiPath(url: string): boolean {
  return BELOW_V1.test(url);
}

const TYPES: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  429: 'rate_limit_error',
};

/** SDKs would repeat calls with the statuses of these errors, but the same call would fail again. */
const FINAL: ReadonlySet<ErrorCode> = new Set(['upstream_rejected', 'upstream_quota', 'internal']);

export function presentOpenAiError({ status, message, code, errors }: AppError) {
  const type = TYPES[status] ?? (status < 500 ? 'invalid_request_error' : 'server_error');
  return { error: { message, type, param: errors?.[0]?.path || null, code } };
}

/** Tells OpenAI's SDKs not to repeat the call. */
export function setRetryHint(response: Response, { code }: AppError): void {
  if (FINAL.has(code)) response.setHeader('X-Should-Retry', 'false');
}
