import type { RequestHandler } from 'express';
import type { Metrics } from '../../domain/metrics.ts';

/** Measures each request until its response is closed. */
export function requestMetrics(metrics: Pick<Metrics, 'requestEnded'>): RequestHandler {
  return (request, response, next) => {
    const receivedAt = performance.now();
    response.locals.receivedAt = receivedAt;
    response.once('close', () => {
      const { locals, statusCode } = response;
      metrics.requestEnded(request.method, locals.route, statusCode, performance.now() - receivedAt);
    });
    next();
  };
}
