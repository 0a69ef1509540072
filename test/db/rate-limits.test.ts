import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Database } from '../../src/db/database.ts';
import { KnexCounters } from '../../src/db/repositories/counters.ts';
import type { Addition } from '../../src/domain/limits.ts';
import { eachDatabase } from '../support/databases.ts';
import { NOON, newId } from './fixtures.ts';

const MINUTE = 60_000;

const addition = (counter: string, points: number, over: Partial<Addition> = {}): Addition => ({
  counter,
  windowStart: NOON,
  windowMs: MINUTE,
  points,
  ...over,
});

eachDatabase((name, open) => {
  let database: Database | undefined;
  // SQLite is for one process: connections that wait for each other in it stand still until one gives up.
  const newCounters = () => {
    database = name === 'SQLite' ? (database ?? open()) : open();
    return new KnexCounters(database.knex, () => NOON);
  };

  describe('counters as rows', () => {
    test('add up, each by itself and each window by itself, and answer in the order of the question', async () => {
      const counters = newCounters();
      const [a, b] = [newId(), newId()];
      assert.deepEqual(await counters.add([addition(b, 5), addition(a, 1)], false), [5, 1]);
      assert.deepEqual(await counters.add([addition(a, 2), addition(b, -3)], true), [3, 2]);
      const next = addition(a, 1, { windowStart: NOON + MINUTE });
      assert.deepEqual(await counters.add([next, addition(a, 0), addition(newId(), 0)], false), [1, 3, 0]);
    });

    test('take subjects of any kind, long ones too, and more tokens than fit into 32 bits', async () => {
      const counters = newCounters();
      const subjects = ['', "' OR 1=1 --", '\0', '钥匙 😀', 'x'.repeat(100_000)];
      const all = subjects.map((subject) => addition(subject, 3_000_000_000));
      await counters.add(all, true);
      assert.deepEqual(
        await counters.add(all, true),
        subjects.map(() => 6_000_000_000),
      );
    });

    test('take many at once', async () => {
      const counters = newCounters();
      const many = Array.from({ length: 1201 }, (_, n) => addition(newId(), n));
      assert.deepEqual(
        await counters.add(many, false),
        many.map(({ points }) => points),
      );
    });

    test('lose nothing and give each addition its own rank when several processes add at once', async () => {
      const stores = [1, 2, 3].map(() => newCounters());
      const names = Array.from({ length: 20 }, newId);
      const told = await Promise.all(
        Array.from({ length: 30 }, (_, n) => {
          const order = n % 2 ? names : names.toReversed();
          return stores[n % 3]?.add(
            order.map((counter) => addition(counter, 1)),
            true,
          );
        }),
      );
      for (const place of names.keys()) {
        const ranks = told.map((totals, n) => totals?.[n % 2 ? place : names.length - 1 - place]);
        assert.deepEqual(
          ranks.toSorted((one, other) => Number(one) - Number(other)),
          Array.from({ length: 30 }, (_, n) => n + 1),
        );
      }
    });

    test('are forgotten a while after their window', async () => {
      const { knex } = open();
      let now = Date.UTC(2030, 0, 1);
      const counters = new KnexCounters(knex, () => now);
      const counter = newId();
      const window = { windowStart: now, windowMs: MINUTE };
      await counters.add([addition(counter, 1, window)], false);
      const before = await knex('rate_limits').where('ends_at', now / 1000 + 60);
      assert.equal(before.length, 1);
      now += 30 * MINUTE;
      await counters.add([addition(counter, 1, { ...window, windowStart: now })], false);
      const ends = (await knex('rate_limits').select('ends_at')).map((row) => Number(row.ends_at));
      assert.deepEqual(ends, [now / 1000 + 60]);
    });

    test('say in the words of this program that the database is away', async () => {
      const { knex } = open();
      await knex.destroy();
      const counters = new KnexCounters(knex);
      await assert.rejects(counters.add([addition('a', 1)], false), { code: 'database_unavailable' });
    });
  });
});
