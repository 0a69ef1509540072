import type { ErrorRequestHandler, RequestHandler } from 'express';
import type { Logger } from 'pino';
import { AppError } from '../../domain/errors.ts';
import { loggedPath, pathOf, sendProblem } from '../response/problem.ts';

export function notFound(): RequestHandler {
  return (request) => {
    throw new AppError('not_found', `There is nothing at ${pathOf(request)}`);
  };
}

function asAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof URIError)
    return new AppError('malformed_path', 'The path has a malformed percent-encoding');
  return new AppError('internal', 'Unexpected error; the log has details under this request id', {
    cause: error,
  });
}

/** The last stop of every error: a problem document, or a broken connection where the reply was under way. */
export function errorHandler(log: Logger): ErrorRequestHandler {
  return (raw: unknown, request, response, _next) => {
    const error = asAppError(raw);
    if (error.code === 'internal')
      log.error({ err: error.cause ?? error, path: loggedPath(request) }, 'unforeseen error');
    else if (error.status >= 500)
      log.warn({ code: error.code, path: loggedPath(request), cause: causeOf(error) }, error.message);
    if (response.headersSent || response.destroyed) {
      response.destroy();
      return;
    }
    sendProblem(request, response, error);
  };
}

/** Driver and upstream messages can quote data: the log gets the kind of the error and its code, no more. */
function causeOf(error: AppError): string | undefined {
  const { cause } = error;
  if (!(cause instanceof Error)) return undefined;
  const code = 'code' in cause && typeof cause.code === 'string' ? ` ${cause.code}` : '';
  return `${cause.name}${code}`;
}
