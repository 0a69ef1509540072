import type { Request, Response } from 'express';
import type { AppError, FieldError } from '../../domain/errors.ts';

/** RFC 9457, with members of our own. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly instance: string;
  readonly request_id: string;
  readonly code: string;
  readonly errors?: readonly FieldError[];
  /** The same sentence as `detail`, where callers of the first version of this API look for it. */
  readonly error: string;
}

export function problemType(code: string): string {
  return `/problems/${code.replaceAll('_', '-')}`;
}

/** @param instance the path that was asked for */
export function problemOf(error: AppError, instance: string, requestId: string): Problem {
  return {
    type: problemType(error.code),
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

/** Any JSON reply. Characters stay as they are; nothing of it is for a shared cache. */
export function sendJson(
  response: Response,
  status: number,
  body: unknown,
  type = 'application/json; charset=utf-8',
): void {
  const text = JSON.stringify(body);
  response.statusCode = status;
  response.setHeader('Content-Type', type);
  response.setHeader('Cache-Control', 'no-store');
  response.setHeader('Content-Length', Buffer.byteLength(text));
  response.end(text);
}

export function sendProblem(request: Request, response: Response, error: AppError): void {
  const problem = problemOf(error, pathOf(request), response.locals.requestId);
  if (error.retryAfter !== undefined)
    response.setHeader('Retry-After', Math.max(1, Math.ceil(error.retryAfter)));
  for (const [name, value] of Object.entries(error.headers ?? {})) response.setHeader(name, value);
  sendJson(response, error.status, problem, 'application/problem+json; charset=utf-8');
}

/** The path without its query, which may hold what is nobody else's business. */
export function pathOf(request: Request): string {
  const url = request.url;
  const mark = url.indexOf('?');
  return mark < 0 ? url : url.slice(0, mark);
}

const KEY = /ck_[0-9A-Za-z]{8}_[0-9A-Za-z]+/g;

/** The path as it may be logged: somebody may have put a key where its id belongs. */
export function loggedPath(request: Request): string {
  return pathOf(request).replace(KEY, '[a key]');
}
