import type { FinishReason, MessageStatus } from '../../domain/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { ModelOutcome } from '../../domain/model.ts';
import type { Generation } from './generation.ts';

/** How a reply ended: whole, broken by a fault, or stopped by somebody. */
export type ReplyEnd =
  | { readonly kind: 'whole'; readonly outcome: ModelOutcome }
  | { readonly kind: 'broken'; readonly error: AppError }
  | { readonly kind: 'stopped' };

/**
 * One turn's share of a generation, which other turns may share too: it can end earlier than the generation does,
 * and then says no more than it had said until then.
 */
export class Reply {
  readonly generation: Generation;
  /** Resolves at the end, of whatever kind; never rejects. */
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

  /** Undefined while it is being made. */
  get end(): ReplyEnd | undefined {
    if (this.#early) return this.#early.end;
    const { outcome, error } = this.generation;
    if (outcome) return { kind: 'whole', outcome };
    return error && { kind: 'broken', error };
  }

  get running(): boolean {
    return !this.#early && this.generation.running;
  }

  /** How many of the generation's pieces belong to it so far. */
  get count(): number {
    return this.#early?.pieces ?? this.generation.pieces.length;
  }

  /** UTF-16 units so far. */
  get length(): number {
    return this.#early?.length ?? this.generation.length;
  }

  /** The piece by its place; undefined beyond the end. */
  piece(index: number): string | undefined {
    return index < this.count ? this.generation.pieces[index] : undefined;
  }

  get text(): string {
    return this.#early ? this.generation.pieces.slice(0, this.#early.pieces).join('') : this.generation.text;
  }

  /** What was said after the first `length` UTF-16 units. Costs as much as what it returns. */
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

  /** Somebody has heard enough. Without effect after the end. */
  stop(): void {
    this.#endEarly({ kind: 'stopped' });
  }

  /** It is of no use any more. Without effect after the end. */
  fail(error: AppError): void {
    this.#endEarly({ kind: 'broken', error });
  }

  #endEarly(end: ReplyEnd): void {
    if (!this.running) return;
    this.#early = { end, pieces: this.generation.pieces.length, length: this.generation.length };
    this.#settle();
    for (const watcher of this.#watchers) watcher();
    this.#watchers.clear();
    // The call to the model goes on for those who share it, else it ends.
    this.#release(
      end.kind === 'broken' ? end.error : new AppError('reply_incomplete', 'The reply was stopped'),
    );
  }
}

/** What is stored of an ended reply. */
export function storedEnd(end: ReplyEnd): {
  readonly status: MessageStatus;
  readonly finishReason: FinishReason;
} {
  switch (end.kind) {
    case 'whole':
      return {
        status: end.outcome.truncated ? 'incomplete' : 'complete',
        finishReason: end.outcome.finishReason,
      };
    case 'stopped':
      return { status: 'cancelled', finishReason: 'cancelled' };
    case 'broken':
      return { status: 'incomplete', finishReason: 'error' };
  }
}
