import type { TurnWrite, WriteOutcome } from '../../domain/chat/turns.ts';
import { databaseBusy } from '../core/errors.ts';
import { conversationOf } from '../journal/codec.ts';

/**
 * How long a turn waits for a row that another session has locked. The end of a reply waits longer, because its text
 * exists only in this process.
 */
const START_WAIT_MS = 5000;
const END_WAIT_MS = 10_000;
const MIN_RETRY_MS = 5;
const MAX_RETRY_MS = 250;
/** How many turns are tried at the same time. Each occupies a connection while it waits for a table lock. */
const PARALLEL = 2;

export interface WaitingTurn {
  readonly unit: TurnWrite;
  /**
   * When it arrived, on the monotonic clock. The time limit includes the wait for earlier turns of the conversation.
   */
  readonly since: number;
  readonly resolve: (outcome: WriteOutcome) => void;
  readonly reject: (reason: unknown) => void;
}

/** Writes and settles the turn in its own transaction; resolves to false when it is still locked. Never rejects. */
type Attempt = (turn: WaitingTurn) => Promise<boolean>;

interface Line {
  readonly key: unknown;
  readonly turns: WaitingTurn[];
  retryMs: number;
}

/** Retries turns that wait for a lock of another session: each alone, those of one conversation in order. */
export class LockedTurns {
  readonly #attempt: Attempt;
  readonly #lines = new Map<unknown, Line>();
  readonly #ready: Line[] = [];
  #running = 0;
  #closed = false;
  #idle = Promise.withResolvers<void>();

  constructor(attempt: Attempt) {
    this.#attempt = attempt;
  }

  get size(): number {
    return this.#lines.size;
  }

  /** Whether an earlier turn of the conversation waits here, so that this one must too. */
  has(unit: TurnWrite): boolean {
    return this.#lines.size > 0 && this.#lines.has(conversationOf(unit));
  }

  add(turn: WaitingTurn): void {
    const key = conversationOf(turn.unit) ?? turn;
    const line = this.#lines.get(key);
    if (line) {
      line.turns.push(turn);
      return;
    }
    const added = { key, turns: [turn], retryMs: MIN_RETRY_MS };
    this.#lines.set(key, added);
    this.#wait(added);
  }

  /** Resolves when no turn waits any more. */
  async idle(): Promise<void> {
    if (this.#lines.size > 0) await this.#idle.promise;
  }

  /** After this call a turn that is still locked fails instead of waiting. */
  close(): void {
    this.#closed = true;
  }

  #wait(line: Line): void {
    setTimeout(() => {
      this.#ready.push(line);
      this.#next();
    }, line.retryMs);
    line.retryMs = Math.min(2 * line.retryMs, MAX_RETRY_MS);
  }

  #isLate({ unit, since }: WaitingTurn): boolean {
    return performance.now() - since >= (unit.start || unit.revision ? START_WAIT_MS : END_WAIT_MS);
  }

  #next(): void {
    while (this.#running < PARALLEL) {
      const line = this.#ready.shift();
      if (!line) return;
      this.#running += 1;
      void this.#try(line).finally(() => {
        this.#running -= 1;
        this.#next();
      });
    }
  }

  async #try(line: Line): Promise<void> {
    for (let turn = line.turns[0]; turn; turn = line.turns[0]) {
      if (!(await this.#attempt(turn))) {
        if (!this.#closed && !this.#isLate(turn)) return this.#wait(line);
        turn.reject(databaseBusy(undefined));
      }
      line.turns.shift();
      line.retryMs = MIN_RETRY_MS;
    }
    this.#lines.delete(line.key);
    if (this.#lines.size > 0) return;
    this.#idle.resolve();
    this.#idle = Promise.withResolvers();
  }
}
