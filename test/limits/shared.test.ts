import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { KnexCounters } from '../../src/db/access/counters.ts';
import type { Database } from '../../src/db/database.ts';
import type { WindowPolicy } from '../../src/domain/access/limits.ts';
import { Limiter } from '../../src/limits/limiter.ts';
import { eachDatabase } from '../support/databases.ts';
import { silentLog } from '../support/fakes.ts';

const PROCESSES = 3;
const NOON = Date.UTC(2030, 2, 21, 12, 30, 20);

eachDatabase((name, open) => {
  describe('limits that processes share through the database', () => {
    // SQLite is for one process: several connections would wait for each other.
    let database: Database | undefined;
    const limiter = () => {
      database = name === 'SQLite' ? (database ?? open()) : open();
      const store = new KnexCounters(database.knex);
      const clock = { now: () => NOON };
      return new Limiter({ store, isAlone: () => false, clock, log: silentLog });
    };

    for (const limit of [5, 60, 300]) {
      test(`allow exactly ${limit}, though each process could use them all`, async () => {
        const policy: WindowPolicy = { name: `of ${limit}`, limit, windowSeconds: 3600, unit: 'requests' };
        const limiters = Array.from({ length: PROCESSES }, limiter);
        let through = 0;
        // Several callers, each with one request after the other.
        const caller = async (mine: Limiter) => {
          for (let refused = 0; refused < 3; ) {
            const { allowed } = await mine.take(policy, 'a');
            if (allowed) through += 1;
            else refused += 1;
          }
        };
        await Promise.all(limiters.flatMap((mine) => Array.from({ length: 8 }, () => caller(mine))));
        assert.equal(through, limit);
        await Promise.all(limiters.map((mine) => mine.stop()));
        const late = limiter();
        assert.equal((await late.take(policy, 'b')).allowed, true);
        assert.equal((await late.check(policy, 'a')).allowed, false);
        await late.stop();
      });
    }
  });
});
