import type { ModelOutcome } from '../../domain/chat/model.ts';
import type { FinishReason, MessageStatus } from '../../domain/conversations/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { Generation } from './generation.ts';

/** How a reply ended: with an outcome of the model, with the error that broke it, or because it was stopped. */
export type ReplyEnd = ModelOutcome | AppError | 'stopped';

/**
 * One turn's share of a generation that other turns may share. It can end before the generation does, and then has no
 * later pieces.
 */
export class Reply {
  readonly generation: Generation;
  /** Resolves at any end; never rejects. */
  readonly ended: Promise<void>;
  readonly #settle: () => void;
  readonly #release: (reason: unknown) => void;
  readonly #watchers = new Set<() => void>();
  #early: { readonly end: ReplyEnd; readonly pieces: number; readonly length: number } | undefined;

  constructor(generation: Generation) {
    this.generation = generation;
    this.#release = generation.hold();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#settle = resolve;
    void generation.ended.then(resolve);
  }

  /** Undefined while it is running. */
  get end(): ReplyEnd | undefined {
    return this.#early ? this.#early.end : (this.generation.outcome ?? this.generation.error);
  }

  get running(): boolean {
    return !this.#early && this.generation.running;
  }

  /** The number of pieces so far. */
  get count(): number {
    return this.#early?.pieces ?? this.generation.pieces.length;
  }

  /** In UTF-16 units, so far. */
  get length(): number {
    return this.#early?.length ?? this.generation.length;
  }

  /** Undefined beyond the end. */
  piece(index: number): string | undefined {
    return index < this.count ? this.generation.pieces[index] : undefined;
  }

  get text(): string {
    return this.#early ? this.generation.pieces.slice(0, this.#early.pieces).join('') : this.generation.text;
  }

  /** The text after the first `length` UTF-16 units. Its cost is that of the result, not of the reply. */
  after(length: number): string {
    const wanted = this.length - length;
    if (wanted <= 0) return '';
    let index = this.count;
    let found = 0;
    while (found < wanted) {
      index -= 1;
      found += this.piece(index)?.length ?? wanted;
    }
    return this.generation.pieces
      .slice(index, this.count)
      .join('')
      .slice(found - wanted);
  }

  /** Calls `watcher` after every piece and at the end, until the returned function is called. */
  watch(watcher: () => void): () => void {
    this.#watchers.add(watcher);
    const unwatch = this.generation.watch(() => {
      if (!this.#early) watcher();
    });
    return () => {
      this.#watchers.delete(watcher);
      unwatch();
    };
  }

  /** Ends it on request. No effect after the end. */
  stop(): void {
    this.#endEarly('stopped');
  }

  /** Ends it with an error. No effect after the end. */
  fail(error: AppError): void {
    this.#endEarly(error);
  }

  #endEarly(end: ReplyEnd): void {
    if (!this.running) return;
    this.#early = { end, pieces: this.generation.pieces.length, length: this.generation.length };
    this.#settle();
    for (const watcher of this.#watchers) watcher();
    this.#watchers.clear();
    // The call to the model is aborted when no other turn shares it.
    this.#release(end instanceof AppError ? end : new AppError('reply_incomplete', 'The reply was stopped'));
  }
}

/** The columns of an ended reply. */
export function storedEnd(end: ReplyEnd): { status: MessageStatus; finishReason: FinishReason } {
  if (end === 'stopped') return { status: 'cancelled', finishReason: 'cancelled' };
  if (end instanceof AppError) return { status: 'incomplete', finishReason: 'error' };
  return { status: end.truncated ? 'incomplete' : 'complete', finishReason: end.finishReason };
}
