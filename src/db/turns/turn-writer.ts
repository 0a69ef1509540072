import type { Knex } from 'knex';
import type { Logger } from 'pino';
import type {
  ProgressOutcome,
  ReplyProgress,
  TurnWrite,
  TurnWriter,
  WriteOutcome,
} from '../../domain/chat/turns.ts';
import { AppError } from '../../domain/errors.ts';
import { type Dialect, dialectOf } from '../core/dialect.ts';
import { databaseUnavailable, withDeadlockRetry, withReconnect } from '../core/errors.ts';
import { type BatchOutcomes, writeBatch } from './turn-batch.ts';

/** Limits of one transaction, so that statements stay far below the packet limit of any server. */
const BATCH_UNITS = 100;
const BATCH_CHARS = 1_000_000;
/** Units reserved for checkpoints, so that a burst of new turns does not stop them. */
const BATCH_PROGRESS = 25;

interface Waiting<Unit, Outcome> {
  readonly unit: Unit;
  readonly resolve: (outcome: Outcome) => void;
  readonly reject: (reason: unknown) => void;
}

type WaitingTurn = Waiting<TurnWrite, WriteOutcome>;
type WaitingProgress = Waiting<ReplyProgress, ProgressOutcome>;

interface WaitingBatch {
  readonly turns: readonly WaitingTurn[];
  readonly progress: readonly WaitingProgress[];
}

/**
 * Group commit: one transaction at a time writes all queued units; units that arrive meanwhile go into the next one.
 * Under load many turns share a commit, and without load no turn waits.
 */
export class GroupCommitWriter implements TurnWriter {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #logger: Logger;
  #turns: WaitingTurn[] = [];
  #progress: WaitingProgress[] = [];
  #running: Promise<void> | undefined;
  #closed = false;

  /** @param knex with a connection of its own where possible, so that readers cannot delay writes */
  constructor(knex: Knex, logger: Logger) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.#logger = logger;
  }

  write(unit: TurnWrite): Promise<WriteOutcome> {
    return this.#enqueue(this.#turns, unit);
  }

  progress(reply: ReplyProgress): Promise<ProgressOutcome> {
    return this.#enqueue(this.#progress, reply);
  }

  async idle(): Promise<void> {
    while (this.#running) await this.#running;
  }

  /** Rejects new units and waits for queued ones. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.idle();
  }

  #enqueue<Unit, Outcome>(queue: Waiting<Unit, Outcome>[], unit: Unit): Promise<Outcome> {
    if (this.#closed) return Promise.reject(databaseUnavailable('the writer is closed'));
    return new Promise((resolve, reject) => {
      queue.push({ unit, resolve, reject });
      this.#running ??= this.#writeQueued();
    });
  }

  async #writeQueued(): Promise<void> {
    // Units of the same turn of the event loop share the first transaction.
    await new Promise(setImmediate);
    while (this.#turns.length + this.#progress.length > 0) await this.#settle(this.#nextBatch());
    this.#running = undefined;
  }

  #nextBatch(): WaitingBatch {
    const reserved = Math.min(this.#progress.length, BATCH_PROGRESS);
    let chars = 0;
    const over = this.#turns.findIndex(({ unit }, index) => {
      chars += (unit.start?.message.content.length ?? 0) + (unit.reply?.content.length ?? 0);
      return index === BATCH_UNITS - reserved || (index > 0 && chars > BATCH_CHARS);
    });
    const turns = this.#turns.splice(0, over === -1 ? this.#turns.length : over);
    return { turns, progress: this.#progress.splice(0, BATCH_UNITS - turns.length) };
  }

  /** Never rejects. */
  async #settle(batch: WaitingBatch): Promise<void> {
    try {
      const outcomes = await this.#commit(batch);
      settleEach(batch.turns, outcomes.turns);
      settleEach(batch.progress, outcomes.progress);
    } catch (error) {
      await this.#settleFailed(batch, error);
    }
  }

  async #settleFailed({ turns, progress }: WaitingBatch, error: unknown): Promise<void> {
    if (error instanceof AppError) {
      // Units queued meanwhile fail too: if each batch waited for a dead database, the last one would wait for minutes.
      const queued = [...this.#turns.splice(0), ...this.#progress.splice(0)];
      for (const { reject } of [...turns, ...progress, ...queued]) reject(error);
      return;
    }
    if (turns.length + progress.length === 1) {
      for (const { reject } of [...turns, ...progress]) reject(error);
      return;
    }
    this.#logger.warn(
      { err: error, units: turns.length + progress.length },
      'batch failed, writing each unit separately',
    );
    for (const waiting of turns) await this.#settle({ turns: [waiting], progress: [] });
    for (const waiting of progress) await this.#settle({ turns: [], progress: [waiting] });
  }

  /** @throws AppError when the database is unavailable; the driver's error when one of the units caused it */
  #commit({ turns, progress }: WaitingBatch): Promise<BatchOutcomes> {
    const batch = { turns: turns.map(({ unit }) => unit), progress: progress.map(({ unit }) => unit) };
    return withReconnect(() => withDeadlockRetry(() => writeBatch(this.#knex, this.#dialect, batch)));
  }
}

function settleEach<Outcome>(
  waiting: readonly Waiting<unknown, Outcome>[],
  outcomes: readonly Outcome[],
): void {
  for (const [index, { resolve, reject }] of waiting.entries()) {
    const outcome = outcomes[index];
    if (outcome === undefined) reject(new Error('a unit has no outcome'));
    else resolve(outcome);
  }
}
