import type { Knex } from 'knex';
import type { Logger } from 'pino';
import type {
  ProgressOutcome,
  ReplyProgress,
  TurnWrite,
  TurnWriter,
  WriteOutcome,
} from '../../domain/chat/turns.ts';
import { isDatabaseBusy, isUnavailable } from '../../domain/errors.ts';
import type { Metrics } from '../../domain/metrics.ts';
import { type Dialect, dialectOf } from '../core/dialect.ts';
import {
  classifyError,
  databaseBusy,
  databaseUnavailable,
  withDeadlockRetry,
  withReconnect,
} from '../core/errors.ts';
import { LockedTurns, type WaitingTurn } from './locked-turns.ts';
import { messageChars } from './text-parts.ts';
import { type BatchOutcomes, LOCKED, writeBatch } from './turn-batch.ts';

/** Limits of one transaction, so that statements stay far below the packet limit of any server. */
const BATCH_UNITS = 100;
const BATCH_CHARS = 1_000_000;
/** Units reserved for checkpoints, so that a burst of new turns does not stop them. */
const BATCH_PROGRESS = 25;

/**
 * Connections of the writer on MySQL, so that none delays another: one per lane, two for locked turns, one for
 * heartbeats.
 */
export const WRITER_CONNECTIONS = 5;

export type WriterMetrics = Pick<Metrics, 'batchWritten' | 'writeWaited'>;

interface WaitingProgress {
  readonly unit: ReplyProgress;
  readonly resolve: (outcome: ProgressOutcome) => void;
  readonly reject: (reason: unknown) => void;
}

interface WaitingBatch {
  readonly turns: readonly WaitingTurn[];
  readonly progress: readonly WaitingProgress[];
}

/**
 * Group commit: one transaction at a time writes all queued units; units that arrive meanwhile go into the next one.
 * Under load many turns share a commit, and without load no turn waits. A turn whose row is locked by another session
 * leaves its batch and is tried again alone.
 */
export class GroupCommitWriter implements TurnWriter {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #logger: Logger;
  readonly #metrics: WriterMetrics | undefined;
  readonly #main: Lane;
  /**
   * Turns that need further tables, such as those with an idempotency key. A lock on these tables delays no other turn.
   */
  readonly #keyed: Lane;
  readonly #locked: LockedTurns;
  #closed = false;

  /** @param knex with its own connections on MySQL, so that readers cannot delay writes */
  constructor(knex: Knex, logger: Logger, metrics?: WriterMetrics) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.#logger = logger;
    this.#metrics = metrics;
    const settle = (batch: WaitingBatch) => this.#settle(batch);
    this.#main = new Lane(settle);
    this.#keyed = this.#dialect.pooled ? new Lane(settle) : this.#main;
    this.#locked = new LockedTurns((turn) => this.#retry(turn));
  }

  write(unit: TurnWrite, since = performance.now()): Promise<WriteOutcome> {
    if (this.#closed) return Promise.reject(databaseUnavailable('the writer is closed'));
    return new Promise((resolve, reject) => {
      const turn = { unit, since, resolve, reject };
      if (this.#locked.has(unit)) this.#locked.add(turn);
      else (unit.key || unit.replayed ? this.#keyed : this.#main).addTurn(turn);
    });
  }

  progress(reply: ReplyProgress): Promise<ProgressOutcome> {
    if (this.#closed) return Promise.reject(databaseUnavailable('the writer is closed'));
    return new Promise((resolve, reject) => {
      this.#main.addProgress({ unit: reply, resolve, reject });
    });
  }

  async idle(): Promise<void> {
    do {
      await Promise.all([this.#main.idle(), this.#keyed.idle()]);
      await this.#locked.idle();
    } while (this.#main.running || this.#keyed.running);
  }

  /** Rejects new units and waits for queued ones. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#locked.close();
    await this.idle();
  }

  /** Never rejects. */
  async #settle({ turns, progress }: WaitingBatch): Promise<void> {
    const batch = { turns: turns.filter((turn) => !this.#isBehindLock(turn)), progress };
    this.#measure(batch);
    try {
      const outcomes = await this.#commit(batch);
      for (const [index, turn] of batch.turns.entries()) this.#settleTurn(turn, outcomes.turns[index]);
      for (const [index, progress] of batch.progress.entries()) {
        const outcome = outcomes.progress[index];
        // The next checkpoint writes the same text.
        if (outcome === LOCKED) progress.reject(databaseBusy(undefined));
        else settle(progress, outcome);
      }
    } catch (error) {
      await this.#settleFailed(batch, error);
    }
  }

  #measure({ turns, progress }: WaitingBatch): void {
    if (!this.#metrics) return;
    const now = performance.now();
    this.#metrics.batchWritten(turns.length + progress.length);
    for (const { since } of turns) this.#metrics.writeWaited(now - since);
  }

  /** Lets the turn wait behind an earlier, locked turn of its conversation, to keep their order. */
  #isBehindLock(turn: WaitingTurn): boolean {
    if (!this.#locked.has(turn.unit)) return false;
    this.#locked.add(turn);
    return true;
  }

  #settleTurn(turn: WaitingTurn, outcome: BatchOutcomes['turns'][number] | undefined): void {
    if (outcome === LOCKED) this.#locked.add(turn);
    else settle(turn, outcome);
  }

  async #settleFailed(batch: WaitingBatch, error: unknown): Promise<void> {
    const { turns, progress } = batch;
    if (isUnavailable(error)) {
      // Units queued meanwhile fail too: if each batch waited for a dead database, the last one would wait for minutes.
      const queued = [...this.#main.clear(), ...this.#keyed.clear()];
      for (const { reject } of [...turns, ...progress, ...queued]) reject(error);
      return;
    }
    if (isDatabaseBusy(error)) return this.#settleBusy(batch, error);
    if (turns.length + progress.length === 1) {
      for (const { reject } of [...turns, ...progress]) reject(error);
      return;
    }
    this.#logger.warn(
      { err: error, units: turns.length + progress.length },
      'batch failed, writing each unit separately',
    );
    for (const turn of turns) await this.#settle({ turns: [turn], progress: [] });
    for (const waiting of progress) await this.#settle({ turns: [], progress: [waiting] });
  }

  /**
   * A table or an uncommitted row is locked, or a statement took too long. One unit may be the cause, so each is tried
   * alone.
   */
  #settleBusy({ turns, progress }: WaitingBatch, error: Error): void {
    for (const { reject } of progress) reject(error);
    // On SQLite the lock is on the whole file, and the transaction has already waited for it.
    const canRetry = this.#dialect.pooled && (turns.length > 1 || isLock(error));
    for (const turn of turns) {
      if (canRetry) this.#locked.add(turn);
      else turn.reject(error);
    }
  }

  /** Never rejects. @returns false when the turn is still locked */
  async #retry(turn: WaitingTurn): Promise<boolean> {
    try {
      const { turns } = await this.#commit({ turns: [turn], progress: [] });
      if (turns[0] === LOCKED) return false;
      settle(turn, turns[0]);
    } catch (error) {
      if (isDatabaseBusy(error) && isLock(error)) return false;
      turn.reject(error);
    }
    return true;
  }

  /** @throws AppError when the database is unavailable or busy; the driver's error when one of the units caused it */
  #commit({ turns, progress }: WaitingBatch): Promise<BatchOutcomes> {
    const batch = { turns: turns.map(({ unit }) => unit), progress: progress.map(({ unit }) => unit) };
    return withReconnect(() => withDeadlockRetry(() => writeBatch(this.#knex, this.#dialect, batch)));
  }
}

/** Runs one transaction at a time, with units in the order of arrival. */
class Lane {
  readonly #settle: (batch: WaitingBatch) => Promise<void>;
  #turns: WaitingTurn[] = [];
  #progress: WaitingProgress[] = [];
  #running: Promise<void> | undefined;

  constructor(settle: (batch: WaitingBatch) => Promise<void>) {
    this.#settle = settle;
  }

  get running(): boolean {
    return this.#running !== undefined;
  }

  addTurn(turn: WaitingTurn): void {
    this.#turns.push(turn);
    this.#running ??= this.#run();
  }

  addProgress(progress: WaitingProgress): void {
    this.#progress.push(progress);
    this.#running ??= this.#run();
  }

  async idle(): Promise<void> {
    while (this.#running) await this.#running;
  }

  /** Removes and returns what is queued. */
  clear(): { reject(reason: unknown): void }[] {
    return [...this.#turns.splice(0), ...this.#progress.splice(0)];
  }

  async #run(): Promise<void> {
    // Units of the same turn of the event loop share the first transaction.
    await new Promise(setImmediate);
    while (this.#turns.length + this.#progress.length > 0) await this.#settle(this.#nextBatch());
    this.#running = undefined;
  }

  #nextBatch(): WaitingBatch {
    const reserved = Math.min(this.#progress.length, BATCH_PROGRESS);
    let chars = 0;
    const over = this.#turns.findIndex(({ unit }, index) => {
      chars += charsOf(unit);
      return index === BATCH_UNITS - reserved || (index > 0 && chars > BATCH_CHARS);
    });
    const turns = this.#turns.splice(0, over === -1 ? this.#turns.length : over);
    return { turns, progress: this.#progress.splice(0, BATCH_UNITS - turns.length) };
  }
}

function charsOf({ start, revision, reply }: TurnWrite): number {
  const message = start?.message ?? revision?.message;
  let chars = 0;
  for (const earlier of start?.earlier ?? []) chars += messageChars(earlier);
  if (message) chars += messageChars(message);
  if (reply) chars += messageChars(reply);
  return chars;
}

function isLock(error: Error): boolean {
  return classifyError(error.cause) !== 'slow';
}

function settle<Outcome>(
  { resolve, reject }: { resolve(outcome: Outcome): void; reject(reason: unknown): void },
  outcome: Outcome | undefined,
): void {
  if (outcome === undefined) reject(new Error('a unit has no outcome'));
  else resolve(outcome);
}
