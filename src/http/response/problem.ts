import type { Request, Response } from 'express';
import { AppError, type FieldError } from '../../domain/errors.ts';
import { lineJson } from '../../util/line-json.ts';
import { isOpenAiPath, presentOpenAiError, setRetryHint } from '../openai/errors.ts';

/** RFC 9457, with members of this API. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly instance: string;
  readonly request_id: string;
  readonly code: string;
  readonly errors?: readonly FieldError[];
  /** Same as `detail`; the first version of this API had only this member. */
  readonly error: string;
}

/** @param instance the path of the request */
export function problemOf(error: AppError, instance: string, requestId: string): Problem {
  return {
    type: `/problems/${error.code.replaceAll('_', '-')}`,
    title: error.title,
    status: error.status,
    detail: error.message,
    instance,
    request_id: requestId,
    code: error.code,
    ...(error.errors === undefined ? {} : { errors: error.errors }),
    error: error.message,
  };
}

/** The problem document for the request of this response. */
export function requestProblem({ req, locals }: Response, error: AppError): Problem {
  return problemOf(error, pathOf(req), locals.requestId);
}

/** Sends JSON that shared caches must not store. */
export function sendJson(
  response: Response,
  status: number,
  body: unknown,
  type = 'application/json; charset=utf-8',
): void {
  const text = lineJson(body);
  response.statusCode = status;
  response.setHeader('Content-Type', type);
  response.setHeader('Cache-Control', 'no-store');
  response.setHeader('Content-Length', Buffer.byteLength(text));
  response.end(text);
}

/** Below `/v1` an error of OpenAI's form, else a problem document. */
export function sendProblem(response: Response, error: AppError): void {
  if (error.retryAfter !== undefined)
    response.setHeader('Retry-After', Math.max(1, Math.ceil(error.retryAfter)));
  for (const [name, value] of Object.entries(error.headers ?? {})) response.setHeader(name, value);
  if (isOpenAiPath(response.req.originalUrl)) {
    setRetryHint(response, error);
    sendJson(response, error.status, presentOpenAiError(error));
    return;
  }
  sendJson(
    response,
    error.status,
    requestProblem(response, error),
    'application/problem+json; charset=utf-8',
  );
}

/** @param allow the value of `Allow` */
export function methodNotAllowed(method: string, allow: string): AppError {
  return new AppError('method_not_allowed', `This path does not support ${method}; use ${allow}`, {
    headers: { Allow: allow },
  });
}

/** The path without the query, which can hold secrets. */
export function pathOf({ url }: Pick<Request, 'url'>): string {
  const mark = url.indexOf('?');
  return mark < 0 ? url : url.slice(0, mark);
}

const KEY = /ck_[0-9A-Za-z]{8}_[0-9A-Za-z]+/g;

/** The path for the log. A caller may have put a key in place of its id. */
export function loggedPath(request: Request): string {
  return pathOf(request).replace(KEY, '[redacted]');
}
