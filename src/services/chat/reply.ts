import type { ModelOutcome } from '../../domain/chat/model.ts';
import type { FinishReason, MessageStatus } from '../../domain/conversations/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { Generation } from './generation.ts';

/** How a reply ended: with the model's outcome, with an error, or because it was stopped. */
export type ReplyEnd = ModelOutcome | AppError | 'stopped';

interface EarlyEnd {
  readonly end: ReplyEnd;
  readonly pieces: number;
  readonly length: number;
  readonly reasoningPieces: number;
  readonly reasoningLength: number;
}

/**
 * One turn's view of a generation, which other turns may share. It can end before the generation does, and then does
 * not show later pieces.
 */
export class Reply {
  readonly generation: Generation;
  /** How many readers of this process have its stream open. */
  readers = 0;
  readonly #ended = Promise.withResolvers<void>();
  /** Resolves at any end; never rejects. */
  readonly ended = this.#ended.promise;
  readonly #release: (reason: unknown) => void;
  readonly #watchers = new Set<() => void>();
  #early: EarlyEnd | undefined;

  constructor(generation: Generation) {
    this.generation = generation;
    this.#release = generation.hold();
    void generation.ended.then(this.#ended.resolve);
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

  /** As {@link count}, of the reasoning. */
  get reasoningCount(): number {
    return this.#early?.reasoningPieces ?? this.generation.reasoningPieces.length;
  }

  get reasoningLength(): number {
    return this.#early?.reasoningLength ?? this.generation.reasoningLength;
  }

  /** Undefined beyond the end. */
  piece(index: number): string | undefined {
    return index < this.count ? this.generation.pieces[index] : undefined;
  }

  get text(): string {
    return this.#early ? this.generation.pieces.slice(0, this.#early.pieces).join('') : this.generation.text;
  }

  reasoningPiece(index: number): string | undefined {
    return index < this.reasoningCount ? this.generation.reasoningPieces[index] : undefined;
  }

  /** Null without any. */
  get reasoning(): string | null {
    return this.reasoningLength === 0 ? null : this.reasoningAfter(0);
  }

  /** The text after the first `length` UTF-16 units. Takes time in proportion to this text, not to the whole reply. */
  after(length: number): string {
    return lastUnits(this.generation.pieces, this.count, this.length - length);
  }

  reasoningAfter(length: number): string {
    return lastUnits(this.generation.reasoningPieces, this.reasoningCount, this.reasoningLength - length);
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
    const { pieces, length, reasoningPieces, reasoningLength } = this.generation;
    this.#early = {
      end,
      pieces: pieces.length,
      length,
      reasoningPieces: reasoningPieces.length,
      reasoningLength,
    };
    this.#ended.resolve();
    for (const watcher of this.#watchers) watcher();
    this.#watchers.clear();
    // The call to the model is aborted when no other turn shares it.
    this.#release(end instanceof AppError ? end : new AppError('reply_incomplete', 'The reply was stopped'));
  }
}

/** The last units of the first `count` pieces. */
function lastUnits(pieces: readonly string[], count: number, units: number): string {
  if (units <= 0) return '';
  let index = count;
  let found = 0;
  while (found < units) {
    index -= 1;
    found += pieces[index]?.length ?? units;
  }
  return pieces
    .slice(index, count)
    .join('')
    .slice(found - units);
}

/** The columns of an ended reply. */
export function storedEnd(end: ReplyEnd): { status: MessageStatus; finishReason: FinishReason } {
  if (end === 'stopped') return { status: 'cancelled', finishReason: 'cancelled' };
  if (end instanceof AppError) return { status: 'incomplete', finishReason: 'error' };
  return { status: end.truncated ? 'incomplete' : 'complete', finishReason: end.finishReason };
}
