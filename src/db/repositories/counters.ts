import { hash } from 'node:crypto';
import type { Knex } from 'knex';
import type { Addition, CounterStore } from '../../domain/limits.ts';
import { dialectOf } from '../core/dialect.ts';
import { toAppError, transaction, withDeadlockRetry } from '../core/errors.ts';

const ROWS_PER_STATEMENT = 500;
/** How long after its window a row may stay, and how often the old ones are looked for. */
const KEEP_MS = 600_000;

interface Row {
  id: string;
  points: number;
  ends_at: number;
}

/** Counters as rows. */
export class KnexCounters implements CounterStore {
  readonly #knex: Knex;
  readonly #now: () => number;
  #sweepAt: number;

  /** @param now wall clock, milliseconds */
  constructor(knex: Knex, now: () => number = Date.now) {
    this.#knex = knex;
    this.#now = now;
    this.#sweepAt = now() + KEEP_MS * Math.random();
  }

  async add(additions: readonly Addition[], ranked: boolean): Promise<number[]> {
    const rows = additions.map(toRow);
    // All processes in the same order: none waits for a row that another one holds while that one waits for it.
    const sorted = rows.toSorted((one, other) => (one.id < other.id ? -1 : 1));
    try {
      // In a transaction the rows stay locked until they are read. It costs twice as much, so only where it matters;
      // and for several statements, which are to be undone together.
      const points =
        ranked || rows.length > ROWS_PER_STATEMENT
          ? await transaction(this.#knex, (trx) => addAll(trx, sorted))
          : await withDeadlockRetry(() => addAll(this.#knex, sorted));
      await this.#sweep();
      return rows.map(({ id }) => points.get(id) ?? 0);
    } catch (error) {
      throw toAppError(error);
    }
  }

  /** Never rejects: what is not removed now is removed the next time. */
  async #sweep(): Promise<void> {
    const now = this.#now();
    if (now < this.#sweepAt) return;
    this.#sweepAt = now + KEEP_MS;
    await this.#knex('rate_limits')
      .where('ends_at', '<', Math.floor((now - KEEP_MS) / 1000))
      .delete()
      .catch(() => {});
  }
}

async function addAll(knex: Knex, rows: readonly Row[]): Promise<Map<string, number>> {
  const points = new Map<string, number>();
  const dialect = dialectOf(knex);
  for (let from = 0; from < rows.length; from += ROWS_PER_STATEMENT) {
    const some = rows.slice(from, from + ROWS_PER_STATEMENT);
    const values = new Array(some.length).fill('(?, ?, ?)').join(', ');
    await knex.raw(
      `INSERT INTO rate_limits (id, points, ends_at) VALUES ${values} ${ON_KNOWN_COUNTER[dialect.product]}`,
      some.flatMap((row) => [row.id, row.points, row.ends_at]),
    );
    const marks = new Array(some.length).fill('?').join(', ');
    const sql = `SELECT id, points FROM rate_limits WHERE id IN (${marks})`;
    const ids = some.map(({ id }) => id);
    for (const row of await dialect.select<Row>(knex, sql, ids)) points.set(row.id, Number(row.points));
  }
  return points;
}

/** After `VALUES …`: one that is there grows by as much. */
const ON_KNOWN_COUNTER = {
  MySQL: 'ON DUPLICATE KEY UPDATE points = points + VALUES(points)',
  SQLite: 'ON CONFLICT (id) DO UPDATE SET points = points + excluded.points',
};

function toRow({ counter, windowStart, windowMs, points }: Addition): Row {
  const id = hash('sha256', `${counter}\n${windowStart}`, 'base64url');
  return { id, points, ends_at: Math.ceil((windowStart + windowMs) / 1000) };
}
