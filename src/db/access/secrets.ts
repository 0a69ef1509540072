import { randomBytes } from 'node:crypto';
import type { Knex } from 'knex';
import { toTime } from '../core/codec.ts';
import { withReconnect } from '../core/errors.ts';

const BYTES = 32;

/** Secrets that all processes of a database share. */
export class Secrets {
  readonly #knex: Knex;
  readonly #known = new Map<string, string>();

  constructor(knex: Knex) {
    this.#knex = knex;
  }

  /**
   * Returns the secret of that name; creates it on first use.
   * @throws AppError `database_unavailable`
   */
  async get(name: string): Promise<string> {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    const value = await withReconnect(async () => {
      const made = { name, value: randomBytes(BYTES).toString('base64url'), created_at: toTime(Date.now()) };
      const stored = await this.#knex('secrets').where({ name }).first('value');
      if (stored) return stored.value;
      await this.#knex('secrets').insert(made).onConflict('name').ignore();
      return (await this.#knex('secrets').where({ name }).first('value'))?.value ?? made.value;
    });
    this.#known.set(name, value);
    return value;
  }
}
