import type { ErrorRequestHandler, RequestHandler } from 'express';
import { AppError } from '../../domain/errors.ts';
import { pathOf, sendProblem } from '../response/problem.ts';
import { noteError } from '../response/request-details.ts';

export function notFound(): RequestHandler {
  return (request) => {
    throw new AppError('not_found', `No route matches ${pathOf(request)}`);
  };
}

/** Answers an error with a problem document, or breaks the connection where the response has started. */
export function errorHandler(): ErrorRequestHandler {
  return (raw: unknown, _request, response, _next) => {
    const error = toAppError(raw);
    noteError(response, error);
    if (response.headersSent || response.destroyed) {
      response.destroy();
      return;
    }
    sendProblem(response, error);
  };
}

function toAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof URIError)
    return new AppError('malformed_path', 'The percent-encoding of the path must be valid');
  return new AppError('internal', 'An unexpected error occurred; search the log for this request id', {
    cause: error,
  });
}
