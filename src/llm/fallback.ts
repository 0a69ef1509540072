/** A second model server, which gets the calls that the first one does not answer. */
import type { CallContext, ModelOutcome, ModelRequest, PieceReader } from '../domain/chat/model.ts';
import { AppError } from '../domain/errors.ts';
import type { CircuitState, Metrics } from '../domain/metrics.ts';
import type { Log } from '../domain/runtime.ts';
import { rejectsTheRequest } from './errors.ts';
import type { OpenedModel } from './model.ts';

export interface FallbackOptions {
  /** The model at the fallback; undefined: the requested one. */
  readonly model: string | undefined;
  /** The time of the first server until the first token of a stream, retries included. */
  readonly firstTokenTimeoutMs: number;
}

/** The abort reason of a call to the first server that took too long; internal. */
class TooLate extends Error {}

/**
 * The same call goes to the fallback when the first server is out of retries, its circuit is open, or it gives no first
 * token in time; never after the first token, nor when the request itself was rejected (400 and 422). The first server
 * must give up whole replies after half of the caller's time by itself.
 */
export function withFallback(
  primary: OpenedModel,
  fallback: OpenedModel,
  { model, firstTokenTimeoutMs }: FallbackOptions,
  log: Log,
  metrics?: Pick<Metrics, 'fallbackCalled'>,
): OpenedModel {
  const second = <O extends ModelOutcome>(
    request: ModelRequest,
    error: unknown,
    context: CallContext | undefined,
    call: (request: ModelRequest) => Promise<O>,
  ): Promise<O> => {
    const code = error instanceof AppError ? error.code : 'upstream_timeout';
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
        if (signal.aborted || rejectsTheRequest(error)) throw error;
        const call = (changed: ModelRequest) => fallback.complete(changed, signal, context);
        return { ...(await second(request, error, context, call)), upstream: 'fallback' };
      }
    },

    async stream(request, on, signal, context) {
      const late = new AbortController();
      const timer = setTimeout(() => late.abort(new TooLate()), firstTokenTimeoutMs);
      let begun = false;
      const began = () => {
        if (begun) return;
        begun = true;
        clearTimeout(timer);
        context?.answersFrom?.('primary');
      };
      const take: PieceReader = {
        content(text) {
          began();
          on.content(text);
        },
        reasoning(text) {
          began();
          on.reasoning(text);
        },
      };
      try {
        const outcome = await primary.stream(request, take, AbortSignal.any([signal, late.signal]), context);
        return { ...outcome, upstream: 'primary' };
      } catch (error) {
        if (begun || signal.aborted || rejectsTheRequest(error)) throw error;
        const call = (changed: ModelRequest) => fallback.stream(changed, on, signal, context);
        return { ...(await second(request, error, context, call)), upstream: 'fallback' };
      } finally {
        clearTimeout(timer);
      }
    },

    probe: (signal) => primary.probe(signal),

    listModels: () => primary.listModels(),

    openCircuits: () => [...new Set([...primary.openCircuits(), ...fallback.openCircuits()])],

    circuits() {
      const states = new Map<string, CircuitState>(fallback.circuits());
      for (const [name, state] of primary.circuits()) states.set(name, state);
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
