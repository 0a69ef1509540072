import { AsyncLocalStorage } from 'node:async_hooks';

/** The trace that the caller of a request has begun (W3C Trace Context). */
export interface TraceContext {
  readonly traceId: string;
  /** As received, to be sent on. */
  readonly headers: { readonly traceparent: string; readonly tracestate?: string };
}

export interface RequestFields {
  readonly request_id: string;
  readonly trace_id?: string;
}

/** The id of the current request, for every log line, and its trace. */
export class RequestContext {
  readonly #storage = new AsyncLocalStorage<{
    readonly fields: RequestFields;
    readonly trace: TraceContext | undefined;
  }>();

  run(fields: RequestFields, trace: TraceContext | undefined, work: () => void): void {
    this.#storage.run({ fields, trace }, work);
  }

  /** Fields for a log line; empty outside a request. */
  fields(): Partial<RequestFields> {
    return this.#storage.getStore()?.fields ?? {};
  }

  get trace(): TraceContext | undefined {
    return this.#storage.getStore()?.trace;
  }
}
