import type { TurnPartTimes } from '../../../domain/metrics.ts';
import type { Generation } from '../generation.ts';
import type { ReplyMode } from '../generations.ts';

/** When the steps of a turn ended, on the monotonic clock. */
export class TurnTimes {
  readonly receivedAt: number;
  readonly #mode: ReplyMode;
  readonly #begunAt = performance.now();
  #historyAt: number | undefined;
  #calledAt: number | undefined;
  #startedAt: number | undefined;
  #endedAt: number | undefined;
  #storedAt: number | undefined;

  /** @param receivedAt when the request arrived */
  constructor(receivedAt: number, mode: ReplyMode) {
    this.receivedAt = receivedAt;
    this.#mode = mode;
  }

  historyLoaded(): void {
    this.#historyAt = performance.now();
  }

  /** The reply was requested from the cache, from a running call or from the model. */
  called(): void {
    this.#calledAt = performance.now();
  }

  /** The user message was stored before the reply ended. */
  started(): void {
    this.#startedAt = performance.now();
  }

  replyEnded(): void {
    this.#endedAt = performance.now();
  }

  stored(): void {
    this.#storedAt = performance.now();
  }

  /** From the request until the turn was stored, or until now. */
  get totalMs(): number {
    return (this.#storedAt ?? performance.now()) - this.receivedAt;
  }

  /**
   * From the request until the first text or reasoning could be sent; undefined for whole replies and for empty ones.
   */
  firstMs({ firstAt }: Generation): number | undefined {
    if (this.#mode === 'whole' || firstAt === undefined) return undefined;
    return Math.max(firstAt, this.#calledAt ?? 0, this.#startedAt ?? 0) - this.receivedAt;
  }

  /** @param generation undefined: the reply was not generated for this turn */
  parts(generation: Generation | undefined): TurnPartTimes {
    const stored = this.#storedAt ?? performance.now();
    const history = this.#historyAt ?? stored;
    const called = this.#calledAt ?? stored;
    const ended = this.#endedAt ?? stored;
    const before = { queue: this.#begunAt - this.receivedAt, history: history - this.#begunAt };
    if (!generation) return { ...before, commit: stored - history };
    // Another turn may have made the call earlier.
    const connected = between(called, generation.connectedAt ?? ended, ended);
    const connect = connected - called;
    if (this.#mode === 'whole') {
      const commit = called - history + stored - ended;
      return { ...before, connect, generation: ended - connected, commit };
    }
    const first = between(connected, generation.firstAt ?? ended, ended);
    // No text is sent before the user message is stored.
    const sent = Math.max(first, this.#startedAt ?? first);
    return {
      ...before,
      connect,
      first_token: first - connected,
      generation: Math.max(0, ended - sent),
      commit: called - history + (sent - first) + (stored - Math.max(ended, sent)),
    };
  }
}

function between(least: number, value: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}
