import type { ChatModel, ModelOutcome } from '../domain/chat/model.ts';
import { AppError } from '../domain/errors.ts';
import type { FailureCode, Metrics } from '../domain/metrics.ts';

/** Wraps the model so that each call is reported when it has ended. */
export function measureCalls(model: ChatModel, metrics: Pick<Metrics, 'callEnded'>): ChatModel {
  return {
    async complete(request, signal, context) {
      const call = new MeasuredCall(request.model, metrics);
      return call.reportEnd(model.complete(request, signal, context), signal);
    },
    async stream(request, on, signal, context) {
      const call = new MeasuredCall(request.model, metrics);
      const measured = {
        content(text: string) {
          call.received();
          on.content(text);
        },
        reasoning(text: string) {
          call.received();
          on.reasoning(text);
        },
      };
      return call.reportEnd(model.stream(request, measured, signal, context), signal);
    },
    probe: (signal) => model.probe(signal),
    openCircuits: () => model.openCircuits(),
  };
}

class MeasuredCall {
  readonly #model: string;
  readonly #metrics: Pick<Metrics, 'callEnded'>;
  readonly #began = performance.now();
  #firstMs: number | undefined;
  #chunks = 0;

  constructor(model: string, metrics: Pick<Metrics, 'callEnded'>) {
    this.#model = model;
    this.#metrics = metrics;
  }

  received(): void {
    this.#firstMs ??= performance.now() - this.#began;
    this.#chunks += 1;
  }

  async reportEnd<O extends ModelOutcome>(outcome: Promise<O>, signal: AbortSignal): Promise<O> {
    try {
      const ended = await outcome;
      this.#end(ended, undefined);
      return ended;
    } catch (error) {
      this.#end(undefined, failureOf(error, signal));
      throw error;
    }
  }

  #end(outcome: ModelOutcome | undefined, failure: FailureCode | undefined): void {
    this.#metrics.callEnded({
      requestModel: this.#model,
      responseModel: outcome?.model,
      ms: performance.now() - this.#began,
      firstMs: this.#firstMs,
      chunks: this.#chunks,
      usage: outcome?.usage ?? null,
      failure,
    });
  }
}

/** `cancelled`: the call was aborted, because no turn needed the reply. */
export function failureOf(error: unknown, signal: AbortSignal): FailureCode {
  if (signal.aborted) return 'cancelled';
  return error instanceof AppError ? error.code : 'internal';
}
