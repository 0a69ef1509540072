import type { AppError } from '../../domain/errors.ts';
import type { ModelOutcome, ModelReply } from '../../domain/model.ts';

/**
 * One reply in the making, read by any number of readers, each at its own pace: pieces are kept in the order they
 * came, and a reader remembers how many it has seen. (One growing string would be flattened anew at every look,
 * which makes long replies quadratic.)
 */
export class Generation {
  readonly pieces: string[] = [];
  /** UTF-16 units in all pieces. */
  length = 0;
  /** Set when the reply ended well, a cap of this server included. */
  outcome: ModelOutcome | undefined;
  /** Set when it failed; `pieces` is then what had been said. */
  error: AppError | undefined;
  /** Resolves at the end, good or bad; never rejects. */
  readonly ended: Promise<void>;

  readonly #watchers = new Set<() => void>();
  readonly #abort = new AbortController();
  #settle: () => void = () => {};
  #holders = 0;

  constructor() {
    this.ended = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  /** A reply that is already whole, such as one from the cache. */
  static of(reply: ModelReply): Generation {
    const generation = new Generation();
    if (reply.content !== '') generation.append(reply.content);
    generation.finish(reply);
    return generation;
  }

  get running(): boolean {
    return this.outcome === undefined && this.error === undefined;
  }

  /** Aborted when nobody wants the reply any more. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get text(): string {
    return this.pieces.join('');
  }

  append(piece: string): void {
    this.pieces.push(piece);
    this.length += piece.length;
    this.#notify();
  }

  finish(outcome: ModelOutcome): void {
    this.outcome = outcome;
    this.#end();
  }

  fail(error: AppError): void {
    this.error = error;
    this.#end();
  }

  /** Calls `watcher` after every piece and at the end, until the returned function is called. */
  watch(watcher: () => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /** A turn wants the reply; the returned function says that it does no more. The last one to go aborts it. */
  hold(): (reason: unknown) => void {
    this.#holders += 1;
    let held = true;
    return (reason) => {
      if (!held) return;
      held = false;
      this.#holders -= 1;
      if (this.#holders === 0 && this.running) this.#abort.abort(reason);
    };
  }

  /** Ends the call to the model for everybody who wants it. */
  abort(reason: AppError): void {
    if (this.running) this.#abort.abort(reason);
  }

  #notify(): void {
    for (const watcher of this.#watchers) watcher();
  }

  #end(): void {
    this.#settle();
    this.#notify();
    this.#watchers.clear();
  }
}
