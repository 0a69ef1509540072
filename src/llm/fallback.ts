/** A second model server, which gets the calls that fail at the first one. */
import type { CallContext, ModelOutcome, ModelRequest } from '../domain/chat/model.ts';
import { AppError } from '../domain/errors.ts';
import type { CircuitState, Metrics } from '../domain/metrics.ts';
import type { Log } from '../domain/runtime.ts';
import { rejectsTheRequest, UpstreamError } from './errors.ts';
import type { OpenedModel } from './model.ts';

export interface FallbackOptions {
  /** The model at the fallback; undefined: the requested one. */
  readonly model: string | undefined;
  /** The time of the first server until the first token of a stream, retries included. */
  readonly firstTokenTimeoutMs: number;
}

/**
 * Repeats a call at the fallback when the retries of the first server have failed, its circuit is open, or its first
 * token is late. Does not do so after the first token, or if the request was rejected as invalid (400 and 422). The
 * timeout of the first server's whole replies must be half of the caller's time, because here it is not limited.
 */
export function withFallback(
  primary: OpenedModel,
  fallback: OpenedModel,
  { model, firstTokenTimeoutMs }: FallbackOptions,
  log: Log,
  metrics?: Pick<Metrics, 'fallbackCalled'>,
): OpenedModel {
  const callFallback = <O extends ModelOutcome>(
    request: ModelRequest,
    { code }: AppError,
    context: CallContext | undefined,
    call: (request: ModelRequest) => Promise<O>,
  ): Promise<O> => {
    log.warn({ code, model: request.model, fallback_model: model ?? request.model }, 'fallback is called');
    metrics?.fallbackCalled(code);
    context?.answersFrom?.('fallback');
    return call({ ...request, model: model ?? request.model });
  };
  return {
    async complete(request, signal, context) {
      try {
        const reply = await primary.complete(request, signal, context);
        return { ...reply, upstream: 'primary' };
      } catch (error) {
        if (signal.aborted || !isForFallback(error)) throw error;
        const call = (changed: ModelRequest) => fallback.complete(changed, signal, context);
        return { ...(await callFallback(request, error, context, call)), upstream: 'fallback' };
      }
    },

    async stream(request, on, signal, context) {
      const late = new AbortController();
      // An UpstreamError, so that the circuit counts it as a failure of the model server.
      const expire = () => late.abort(new UpstreamError('upstream_timeout', { reason: 'no first token' }));
      const timer = setTimeout(expire, firstTokenTimeoutMs);
      let hasStarted = false;
      const started = () => {
        hasStarted = true;
        clearTimeout(timer);
        context?.answersFrom?.('primary');
      };
      try {
        const either = AbortSignal.any([signal, late.signal]);
        const outcome = await primary.stream(request, on, either, { ...context, started });
        return { ...outcome, upstream: 'primary' };
      } catch (raw) {
        // Aborted during a wait before a retry, the call rejects with the UpstreamError itself.
        const error = raw instanceof UpstreamError ? raw.error : raw;
        if (hasStarted || signal.aborted || !isForFallback(error)) throw error;
        const call = (changed: ModelRequest) => fallback.stream(changed, on, signal, context);
        return { ...(await callFallback(request, error, context, call)), upstream: 'fallback' };
      } finally {
        clearTimeout(timer);
      }
    },

    probe: (signal) => primary.probe(signal),

    listModels: () => primary.listModels(),

    openCircuits: () => [...new Set([...primary.openCircuits(), ...fallback.openCircuits()])],

    circuits() {
      const states = new Map<string, CircuitState>(primary.circuits());
      for (const [name, state] of fallback.circuits()) {
        if (state === 'open' || (states.get(name) ?? 'closed') === 'closed') states.set(name, state);
      }
      return states;
    },

    async warmUp() {
      await primary.warmUp();
      await fallback.warmUp();
    },

    async close() {
      await Promise.all([primary.close(), fallback.close()]);
    },
  };
}

/** Whether the fallback gets the call. Internal errors and rejected requests are passed to the caller. */
function isForFallback(error: unknown): error is AppError {
  return error instanceof AppError && !rejectsTheRequest(error);
}
