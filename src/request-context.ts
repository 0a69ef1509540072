import { AsyncLocalStorage } from 'node:async_hooks';

/** The id of the current request, for every log line. */
export class RequestContext {
  readonly #storage = new AsyncLocalStorage<string>();

  run(requestId: string, work: () => void): void {
    this.#storage.run(requestId, work);
  }

  /** Fields for a log line; empty outside a request. */
  fields(): { request_id?: string } {
    const requestId = this.#storage.getStore();
    return requestId === undefined ? {} : { request_id: requestId };
  }
}
