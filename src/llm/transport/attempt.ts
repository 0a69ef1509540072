import type { IncomingMessage } from 'node:http';

/** How long what is left of an answer may take to arrive before its connection is given up. */
const LINGER_MS = 1000;

/** One request on the wire. */
export class Attempt {
  readonly #controller = new AbortController();
  #stopped: { readonly reason: unknown } | undefined;

  /** Given to the transport: closes the connection. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get stopped(): boolean {
    return this.#stopped !== undefined;
  }

  /** Ends the attempt: it rejects with `reason`, whatever else comes of it. The first reason counts. */
  stop(reason: unknown): void {
    this.#stopped ??= { reason };
    this.#controller.abort();
  }

  /** Closes the connection without a verdict on the attempt. */
  closeConnection(): void {
    this.#controller.abort();
  }

  /** Lets the rest of an answer run out unread, so that the connection can be used again; not for long. */
  drainResponse(answer: IncomingMessage): void {
    answer.on('error', () => {});
    answer.resume();
    if (answer.complete || answer.destroyed) return;
    const timer = setTimeout(() => this.closeConnection(), LINGER_MS);
    answer.once('close', () => clearTimeout(timer));
  }

  throwIfStopped(): void {
    if (this.#stopped) throw this.#stopped.reason;
  }
}

/** Runs one attempt until it is done, stops itself, or the caller's signal stops it. */
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
    // What the closed connection brings about must not hide why it was closed.
    attempt.throwIfStopped();
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
