import type { RequestHandler } from 'express';
import { AppError } from '../../domain/errors.ts';
import { queryParameters } from '../request/query.ts';
import { readTarget } from '../request/target.ts';

/** More than any client sends; Node itself would silently drop what is beyond its own limit. */
const MAX_HEADERS = 200;

/** One spelling of the path for everything that follows; odd requests end here. */
export function normalizeTarget(): RequestHandler {
  return (request, response, next) => {
    const { rawHeaders } = request;
    if (rawHeaders.length / 2 > MAX_HEADERS) {
      throw new AppError('headers_too_large', `A request may have at most ${MAX_HEADERS} header fields`);
    }
    const target = readTarget(request.url);
    if (target.kind === 'bad') {
      request.url = '/';
      throw new AppError('malformed_path', target.detail);
    }
    if (target.kind === 'redirect') {
      response.setHeader('Location', target.location);
      response.setHeader('Content-Length', 0);
      response.status(308).end();
      return;
    }
    request.url = target.url;
    queryParameters(target.url);
    next();
  };
}
