import type { IncomingHttpHeaders } from 'node:http';
import type { TraceContext } from '../../request-context.ts';

/** W3C Trace Context. Later versions may append fields. */
const TRACEPARENT = /^(?!ff)([\da-f]{2})-(?!0{32})([\da-f]{32})-(?!0{16})[\da-f]{16}-[\da-f]{2}(-.*)?$/;
const TRACESTATE = /^[\x20-\x7e]{1,512}$/;

/** The caller's trace; undefined without a valid `traceparent`. */
export function traceContextOf({ traceparent, tracestate }: IncomingHttpHeaders): TraceContext | undefined {
  if (typeof traceparent !== 'string') return undefined;
  const [, version, traceId, more] = TRACEPARENT.exec(traceparent) ?? [];
  if (traceId === undefined || (version === '00' && more !== undefined)) return undefined;
  const isStateValid = typeof tracestate === 'string' && TRACESTATE.test(tracestate);
  return { traceId, headers: { traceparent, ...(isStateValid && { tracestate }) } };
}
