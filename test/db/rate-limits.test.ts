import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { KnexCounters } from '../../src/db/access/counters.ts';
import type { Database } from '../../src/db/database.ts';
import type { Addition } from '../../src/domain/access/limits.ts';
import { eachDatabase } from '../support/databases.ts';
import { NOON, newId } from './fixtures.ts';

const MINUTE = 60_000;

const addition = (id: string, points: number, windowEnd = NOON + MINUTE): Addition => ({
  id,
  points,
  windowEnd,
  windowMs: MINUTE,
});

eachDatabase((name, open) => {
  let database: Database | undefined;
  // SQLite is for one process: several connections would wait for each other.
  const newCounters = () => {
    database = name === 'SQLite' ? (database ?? open()) : open();
    return new KnexCounters(database.knex, () => NOON);
  };

  describe('counters as rows', () => {
    test('add up, each by itself, beyond 32 bits too', async () => {
      const counters = newCounters();
      const [a, b, c] = [newId(), newId(), newId()];
      assert.equal(await counters.add(addition(a, 1)), 1);
      assert.equal(await counters.add(addition(b, 3_000_000_000)), 3_000_000_000);
      assert.equal(await counters.add(addition(a, 2)), 3);
      assert.equal(await counters.add(addition(b, 3_000_000_000)), 6_000_000_000);
      assert.equal(await counters.add(addition(a, 0)), 3);
      assert.equal(await counters.add(addition(c, 0)), 0);
      assert.equal(await counters.add(addition(c, 0)), 0);
    });

    test('take one statement', async () => {
      const { knex } = open();
      const counters = new KnexCounters(knex, () => NOON);
      const statements: string[] = [];
      knex.on('query', ({ sql }: { sql: string }) => statements.push(sql));
      const id = newId();
      for (let n = 0; n < 3; n++) await counters.add(addition(id, 1));
      assert.deepEqual(
        statements.map((sql) => /^insert/i.test(sql)),
        [true, true, true],
      );
    });

    test('lose nothing and give each addition its own total when several processes add', async () => {
      const stores = [1, 2, 3].map(() => newCounters());
      const ids = Array.from({ length: 20 }, newId);
      for (const id of ids) {
        const totals = await Promise.all(
          Array.from({ length: 30 }, (_, n) => stores[n % 3]?.add(addition(id, 1)) ?? 0),
        );
        assert.deepEqual(
          totals.toSorted((one, other) => one - other),
          Array.from({ length: 30 }, (_, n) => n + 1),
        );
      }
    });

    test('are deleted a while after their window', async () => {
      const { knex } = open();
      let now = Date.UTC(2030, 0, 1);
      const counters = new KnexCounters(knex, () => now);
      await counters.add(addition(newId(), 1, now + MINUTE));
      const before = await knex('rate_limits').where('ends_at', now / 1000 + 60);
      assert.equal(before.length, 1);
      now += 30 * MINUTE;
      await counters.add(addition(newId(), 1, now + MINUTE));
      const ends = (await knex('rate_limits').select('ends_at')).map((row) => Number(row.ends_at));
      assert.deepEqual(ends, [now / 1000 + 60]);
    });

    test('are deleted in slices, one for each addition', async () => {
      const { knex } = open();
      let now = Date.UTC(2030, 0, 1);
      const counters = new KnexCounters(knex, () => now);
      const old = Array.from({ length: 1500 }, () => ({ id: newId(), points: 1, ends_at: now / 1000 }));
      await knex.batchInsert('rate_limits', old, 300);
      now += 30 * MINUTE;
      const left = async () => {
        await counters.add(addition(newId(), 1, now + MINUTE));
        return (await knex('rate_limits').where('ends_at', '<', now / 1000)).length;
      };
      assert.deepEqual([await left(), await left()], [500, 0]);
    });

    test('report a closed database as unavailable', async () => {
      const { knex } = open();
      await knex.destroy();
      const counters = new KnexCounters(knex);
      await assert.rejects(counters.add(addition('a', 1)), { code: 'database_unavailable' });
    });
  });
});
