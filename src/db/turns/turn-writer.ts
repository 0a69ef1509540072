import type { Knex } from 'knex';
import type { Logger } from 'pino';
import { AppError } from '../../domain/errors.ts';
import type {
  ProgressOutcome,
  ReplyProgress,
  TurnWrite,
  TurnWriter,
  WriteOutcome,
} from '../../domain/turns.ts';
import { type Dialect, dialectOf } from '../core/dialect.ts';
import { databaseUnavailable, withDeadlockRetry, withReconnect } from '../core/errors.ts';
import { type BatchOutcomes, writeBatch } from './turn-batch.ts';

/** What one transaction takes at most: statements stay far below any server's packet limit. */
const BATCH_UNITS = 100;
const BATCH_CHARS = 1_000_000;
/** Of these, what is kept for replies that grow, so that a rush of new turns does not stop them. */
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
 * Group commit. One transaction at a time takes everything that waits; what is handed in meanwhile goes in the next.
 * Under load many turns share the price of a commit, and without load nobody waits for anything.
 */
export class GroupCommitWriter implements TurnWriter {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #logger: Logger;
  #turns: WaitingTurn[] = [];
  #progress: WaitingProgress[] = [];
  #running: Promise<void> | undefined;
  #closed = false;

  /** @param knex best one with a connection of its own: then readers cannot keep replies from being saved */
  constructor(knex: Knex, logger: Logger) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.#logger = logger;
  }

  write(unit: TurnWrite): Promise<WriteOutcome> {
    return this.#hand(this.#turns, unit);
  }

  progress(reply: ReplyProgress): Promise<ProgressOutcome> {
    return this.#hand(this.#progress, reply);
  }

  async idle(): Promise<void> {
    while (this.#running) await this.#running;
  }

  /** Writes what was handed in and takes no more. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.idle();
  }

  #hand<Unit, Outcome>(queue: Waiting<Unit, Outcome>[], unit: Unit): Promise<Outcome> {
    if (this.#closed) return Promise.reject(databaseUnavailable('the writer is closed'));
    return new Promise((resolve, reject) => {
      queue.push({ unit, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  async #run(): Promise<void> {
    // What the same turn of the event loop hands in shares the first transaction too.
    await new Promise(setImmediate);
    while (this.#turns.length + this.#progress.length > 0) await this.#settle(this.#take());
    this.#running = undefined;
  }

  #take(): WaitingBatch {
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
      // Whoever queued up meanwhile has waited as long and is told too: a queue of batches that each wait for a dead
      // database would let the last one wait for minutes.
      const late = [...this.#turns.splice(0), ...this.#progress.splice(0)];
      for (const { reject } of [...turns, ...progress, ...late]) reject(error);
      return;
    }
    if (turns.length + progress.length === 1) {
      for (const { reject } of [...turns, ...progress]) reject(error);
      return;
    }
    this.#logger.warn(
      { err: error, units: turns.length + progress.length },
      'a batch of writes failed; each is tried alone',
    );
    for (const waiting of turns) await this.#settle({ turns: [waiting], progress: [] });
    for (const waiting of progress) await this.#settle({ turns: [], progress: [waiting] });
  }

  /** @throws AppError when the database is at fault, else the driver's error: then one of the units is */
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
    if (outcome === undefined) reject(new Error('a write got no outcome'));
    else resolve(outcome);
  }
}
