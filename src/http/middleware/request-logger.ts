import type { RequestHandler, Response } from 'express';
import type { Logger } from 'pino';
import { ERROR_CODES } from '../../domain/errors.ts';
import type { Metrics } from '../../domain/metrics.ts';
import { tenths } from '../../domain/time.ts';
import type { RequestContext } from '../../request-context.ts';
import { requestIdOf, traceContextOf } from '../request/correlation.ts';
import { loggedPath } from '../response/problem.ts';
import type { RequestDetails } from '../response/request-details.ts';

/** Asked every few seconds by supervisors, load balancers and Prometheus. */
const PROBES: ReadonlySet<string> = new Set(['/health', '/api/health', '/health/ready', '/metrics']);

/** Failed calls to the model server have a warning of their own. */
function levelOf(path: string, { code, err }: RequestDetails = {}): 'debug' | 'info' | 'warn' | 'error' {
  if (err !== undefined) return 'error';
  if (PROBES.has(path)) return 'debug';
  return code && ERROR_CODES[code][0] >= 500 && !code.startsWith('upstream_') ? 'warn' : 'info';
}

function keyOf({ locals }: Response) {
  const key = locals.caller?.key;
  return key ? { key_id: key.id, key_prefix: key.prefix } : undefined;
}

function shown(details: RequestDetails | undefined, began: number) {
  if (!details) return undefined;
  const { firstTokenAt, ...rest } = details;
  return firstTokenAt === undefined ? rest : { ...rest, first_token_ms: tenths(firstTokenAt - began) };
}

/** Sets the request id, and logs and measures the request when its response is closed. */
export function requestLogger(
  log: Logger,
  context: RequestContext,
  metrics: Pick<Metrics, 'requestEnded'>,
): RequestHandler {
  return (request, response, next) => {
    const requestId = requestIdOf(request.headers);
    response.locals.requestId = requestId;
    const trace = traceContextOf(request.headers);
    const fields = { request_id: requestId, ...(trace && { trace_id: trace.traceId }) };
    response.setHeader('X-Request-Id', requestId);
    const began = performance.now();
    response.locals.receivedAt = began;
    const { socket, method } = request;
    const bytesBefore = socket.bytesWritten;
    response.once('close', () => {
      const ms = performance.now() - began;
      metrics.requestEnded(method, response.locals.route, response.statusCode, ms);
      const path = loggedPath(request);
      const level = levelOf(path, response.locals.details);
      if (!log.isLevelEnabled(level)) return;
      // Explicit, because events of the socket run outside the request context.
      const line = {
        ...fields,
        method,
        path,
        status: response.statusCode,
        ms: tenths(ms),
        bytes: socket.bytesWritten - bytesBefore,
        ...keyOf(response),
        ...shown(response.locals.details, began),
        ...(response.writableFinished ? {} : { client: 'gone' }),
      };
      log[level](line, level === 'error' ? 'unhandled error' : 'request');
    });
    context.run(fields, trace, next);
  };
}
