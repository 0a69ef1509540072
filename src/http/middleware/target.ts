import type { RequestHandler } from 'express';
import { AppError } from '../../domain/errors.ts';
import { queryParameters } from '../request/query.ts';
import { readTarget } from '../request/target.ts';

/** More than any client sends. Node drops fields beyond its own limit silently. */
const MAX_HEADERS = 200;

/** Normalizes the path for all later handlers. Malformed targets are rejected here. */
export function normalizeTarget(): RequestHandler {
  return (request, response, next) => {
    const { rawHeaders } = request;
    if (rawHeaders.length / 2 > MAX_HEADERS) {
      throw new AppError('headers_too_large', `The request must have at most ${MAX_HEADERS} header fields`, {
        headers: { Connection: 'close' },
      });
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
