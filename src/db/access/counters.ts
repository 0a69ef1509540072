import type { Knex } from 'knex';
import type { Addition, CounterStore } from '../../domain/access/limits.ts';
import { dialectOf } from '../core/dialect.ts';
import { asAppErrors, withDeadlockRetry } from '../core/errors.ts';

/** How long rows outlive their window, and how often older ones are looked for. */
const SWEEP_MS = 600_000;
const ROWS_PER_SWEEP = 1000;

/** Counters as rows of `rate_limits`. */
export class KnexCounters implements CounterStore {
  readonly #knex: Knex;
  readonly #now: () => number;
  #sweepAt: number;

  constructor(knex: Knex, now: () => number = Date.now) {
    this.#knex = knex;
    this.#now = now;
    this.#sweepAt = now() + SWEEP_MS * Math.random();
  }

  add({ id, points, windowEnd }: Addition): Promise<number> {
    const row = { id, points, ends_at: Math.ceil(windowEnd / 1000) };
    return asAppErrors(async () => {
      const total = await withDeadlockRetry(() => dialectOf(this.#knex).addPoints(this.#knex, row));
      await this.#sweep();
      return total;
    });
  }

  /** Never rejects: rows that are not deleted now are deleted by the next sweep. */
  async #sweep(): Promise<void> {
    const now = this.#now();
    if (now < this.#sweepAt) return;
    this.#sweepAt = now + SWEEP_MS;
    const ended = this.#knex('rate_limits').where('ends_at', '<', Math.floor((now - SWEEP_MS) / 1000));
    try {
      const ids = await ended.limit(ROWS_PER_SWEEP).pluck('id');
      await this.#knex('rate_limits').whereIn('id', ids).delete();
      if (ids.length === ROWS_PER_SWEEP) this.#sweepAt = now;
    } catch {}
  }
}
