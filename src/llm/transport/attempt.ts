import type { IncomingMessage } from 'node:http';

/** If the rest of a response takes longer than this, its connection is closed. */
const DRAIN_MS = 1000;

export class Attempt {
  readonly #controller = new AbortController();
  #stopped: { readonly reason: unknown } | undefined;

  /** Aborting it closes the connection. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get stopped(): boolean {
    return this.#stopped !== undefined;
  }

  /** Rejects the attempt with `reason`, even if its work succeeds. The first reason counts. */
  stop(reason: unknown): void {
    this.#stopped ??= { reason };
    this.#controller.abort();
  }

  /** Closes the connection without rejecting the attempt. */
  closeConnection(): void {
    this.#controller.abort();
  }

  /** Discards the rest of a response, so that its connection can be used again. */
  drainResponse(response: IncomingMessage): void {
    response.on('error', () => {});
    response.resume();
    if (response.complete || response.destroyed) return;
    const timer = setTimeout(() => this.closeConnection(), DRAIN_MS);
    response.once('close', () => clearTimeout(timer));
  }

  throwIfStopped(): void {
    if (this.#stopped) throw this.#stopped.reason;
  }
}

/** Runs one attempt, which the signal stops. */
export async function runAttempt<T>(signal: AbortSignal, work: (attempt: Attempt) => Promise<T>): Promise<T> {
  signal.throwIfAborted();
  const attempt = new Attempt();
  const stop = () => attempt.stop(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  try {
    const result = await work(attempt);
    attempt.throwIfStopped();
    return result;
  } catch (error) {
    // A stopped attempt fails with errors of its closed connection; the reason of the stop is the cause.
    attempt.throwIfStopped();
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
