import type { Knex } from 'knex';
import type { Logger } from 'pino';
import { AppError } from '../domain/errors.ts';
import type { TurnWrite, TurnWriter, WriteOutcome } from '../domain/ports.ts';
import { type Dialect, dialectOf } from './dialect.ts';
import { databaseUnavailable, repeatable, retried } from './errors.ts';
import { writeBatch } from './turn-batch.ts';

/** What one transaction takes at most: statements stay far below any server's packet limit. */
const BATCH_UNITS = 100;
const BATCH_CHARS = 1_000_000;

interface Waiting {
  readonly unit: TurnWrite;
  readonly resolve: (outcome: WriteOutcome) => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * Group commit. One transaction at a time takes everything that waits; what is handed in meanwhile goes in the next.
 * Under load many turns share the price of a commit, and without load nobody waits for anything.
 */
export class GroupCommitWriter implements TurnWriter {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #logger: Logger;
  #waiting: Waiting[] = [];
  #running: Promise<void> | undefined;
  #closed = false;

  /** @param knex best one with a connection of its own: then readers cannot keep replies from being saved */
  constructor(knex: Knex, logger: Logger) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.#logger = logger;
  }

  write(unit: TurnWrite): Promise<WriteOutcome> {
    if (this.#closed) return Promise.reject(databaseUnavailable('the writer is closed'));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ unit, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  async idle(): Promise<void> {
    while (this.#running) await this.#running;
  }

  /** Writes what was handed in and takes no more. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.idle();
  }

  async #run(): Promise<void> {
    // What the same turn of the event loop hands in shares the first transaction too.
    await new Promise(setImmediate);
    while (this.#waiting.length > 0) await this.#settle(this.#take());
    this.#running = undefined;
  }

  #take(): Waiting[] {
    let chars = 0;
    const over = this.#waiting.findIndex(({ unit }, index) => {
      chars += (unit.start?.message.content.length ?? 0) + (unit.reply?.content.length ?? 0);
      return index === BATCH_UNITS || (index > 0 && chars > BATCH_CHARS);
    });
    return this.#waiting.splice(0, over === -1 ? this.#waiting.length : over);
  }

  /** Never rejects. */
  async #settle(batch: readonly Waiting[]): Promise<void> {
    try {
      const outcomes = await this.#commit(batch);
      for (const [index, { resolve, reject }] of batch.entries()) {
        const outcome = outcomes[index];
        if (outcome) resolve(outcome);
        else reject(new Error('a write got no outcome'));
      }
    } catch (error) {
      await this.#settleFailed(batch, error);
    }
  }

  async #settleFailed(batch: readonly Waiting[], error: unknown): Promise<void> {
    if (error instanceof AppError) {
      // Whoever queued up meanwhile has waited as long and is told too: a queue of batches that each wait for a dead
      // database would let the last one wait for minutes.
      for (const { reject } of [...batch, ...this.#waiting.splice(0)]) reject(error);
      return;
    }
    const [only] = batch;
    if (only && batch.length === 1) {
      only.reject(error);
      return;
    }
    this.#logger.warn({ err: error, units: batch.length }, 'a batch of writes failed; each is tried alone');
    for (const waiting of batch) await this.#settle([waiting]);
  }

  /** @throws AppError when the database is at fault, else the driver's error: then one of the units is */
  #commit(batch: readonly Waiting[]): Promise<WriteOutcome[]> {
    const units = batch.map(({ unit }) => unit);
    return repeatable(() => retried(() => writeBatch(this.#knex, this.#dialect, units)));
  }
}
