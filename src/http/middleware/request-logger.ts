import { randomUUID } from 'node:crypto';
import type { RequestHandler } from 'express';
import type { Logger } from 'pino';
import type { RequestContext } from '../../request-context.ts';
import { loggedPath } from '../response/problem.ts';

const REQUEST_ID = /^[A-Za-z0-9._-]{1,128}$/;

/** Sets the request id, and logs the request when its response is closed. */
export function requestLogger(log: Logger, context: RequestContext): RequestHandler {
  return (request, response, next) => {
    const given = request.headers['x-request-id'];
    const requestId = typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    response.locals.requestId = requestId;
    response.setHeader('X-Request-Id', requestId);
    const began = performance.now();
    const { socket, method } = request;
    const bytesBefore = socket.bytesWritten;
    response.once('close', () => {
      // Explicit, because events of the socket run outside the request context.
      const line = {
        request_id: requestId,
        method,
        path: loggedPath(request),
        status: response.statusCode,
        ms: Math.round((performance.now() - began) * 10) / 10,
        bytes: socket.bytesWritten - bytesBefore,
        ...(response.locals.caller?.key && { key_id: response.locals.caller.key.id }),
        ...(response.writableFinished ? {} : { client: 'gone' }),
      };
      log.info(line, 'request');
    });
    context.run(requestId, next);
  };
}
