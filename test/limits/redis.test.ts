import assert from 'node:assert/strict';
import { after, before, describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Addition, WindowPolicy } from '../../src/domain/limits.ts';
import { Limiter } from '../../src/limits/limiter.ts';
import { openRedisCounters } from '../../src/limits/redis.ts';
import { silentLog } from '../support/fakes.ts';
import { provideRedis, REDIS_PASSWORD, type RedisServer, startRedis } from '../support/redis.ts';

const program = provideRedis();
const WINDOW = { windowStart: 1_711_024_200_000, windowMs: 60_000 };
const HOUR: WindowPolicy = { name: 'exports', limit: 40, windowSeconds: 3600, unit: 'requests' };

const addition = (counter: string, points: number): Addition => ({ counter, points, ...WINDOW });

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `${what} did not come about`);
    await delay(10);
  }
}

function open(t: TestContext, url: string) {
  const counters = openRedisCounters(url);
  t.after(() => counters.close());
  return counters;
}

describe('counters in Redis', { skip: program === undefined }, () => {
  let redis: RedisServer;
  before(async () => {
    redis = await startRedis(program ?? '');
  });
  after(() => redis.stop());

  it('add up, each by itself, and answer in the order of the question', async (t) => {
    const counters = open(t, redis.url);
    assert.deepEqual(await counters.add([addition('b', 5), addition('a', 1)], true), [5, 1]);
    assert.deepEqual(await counters.add([addition('a', 2), addition('b', -3)], false), [3, 2]);
    const next = { ...addition('a', 0), windowStart: WINDOW.windowStart + WINDOW.windowMs };
    const many = addition('tokens\n钥匙\0', 3_000_000_000);
    assert.deepEqual(await counters.add([next, many], true), [0, 3_000_000_000]);
    assert.deepEqual(await counters.add([many], true), [6_000_000_000]);
  });

  it('give every addition a rank of its own, from several processes at once', async (t) => {
    const stores = [1, 2, 3].map(() => open(t, redis.url));
    const told = await Promise.all(
      Array.from({ length: 60 }, (_, n) => stores[n % 3]?.add([addition('ranks', 1)], true)),
    );
    assert.deepEqual(
      told.flatMap((ranks) => ranks ?? []).toSorted((one, other) => one - other),
      Array.from({ length: 60 }, (_, n) => n + 1),
    );
  });

  it('let a burst of several limiters through, a fifth more at most', async (t) => {
    const clock = { now: () => WINDOW.windowStart };
    const limiters = [1, 2, 3, 4].map(() => {
      const store = open(t, redis.url);
      return new Limiter({ store, processes: () => 4, always: true, clock, log: silentLog });
    });
    const takes = limiters.flatMap((limiter) =>
      Array.from({ length: 30 }, () => limiter.take(HOUR, 'burst')),
    );
    const through = (await Promise.all(takes)).filter(({ allowed }) => allowed).length;
    assert.ok(through >= 40 && through <= 48, `${through} of 40`);
    await Promise.all(limiters.map((limiter) => limiter.stop()));
  });

  it('say at once that Redis is gone, never why in its own words, and are back with it', async (t) => {
    const counters = open(t, redis.url);
    await counters.add([addition('c', 1)], false);
    await redis.kill();
    const refused = async () => {
      const error = await counters.add([addition('c', 1)], false).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      return error instanceof Error ? error.message : '';
    };
    await until('a refusal', async () => (await refused()) !== '');
    await until('the reason', async () => (await refused()) === 'Redis is away: ECONNREFUSED');
    const began = performance.now();
    for (let n = 0; n < 20; n++) await refused();
    // Connecting may take two seconds.
    assert.ok(performance.now() - began < 1500);
    await redis.start();
    await until('an answer', async () => (await refused()) === '');
  });

  it('do not wait long for a Redis that is frozen', async (t) => {
    const counters = open(t, redis.url);
    await counters.add([addition('d', 1)], false);
    redis.freeze();
    try {
      const began = performance.now();
      await assert.rejects(counters.add([addition('d', 1)], false), /^Error: Redis does not count: timeout$/);
      assert.ok(performance.now() - began < 6000);
    } finally {
      redis.thaw();
    }
    await until('an answer', () =>
      counters
        .add([addition('d', 0)], false)
        .then(() => true)
        .catch(() => false),
    );
  });

  it('name neither the password nor what they asked when Redis does not let them in', async (t) => {
    const wrong = new URL(redis.url);
    wrong.password = `not-${REDIS_PASSWORD}`;
    for (const [url, kind] of [
      [wrong.href, 'WRONGPASS'],
      [redis.url.replace(/\/\/.*@/, '//'), 'NOAUTH'],
    ] as const) {
      const counters = open(t, url);
      await until(kind, () =>
        counters.add([addition('secret-subject', 1)], false).then(
          () => assert.fail('it was let in'),
          (error: Error) => {
            const said = JSON.stringify([error.message, error.stack, Object.entries(error), error.cause]);
            assert.ok(!said.includes(REDIS_PASSWORD) && !said.includes('secret-subject'), said);
            return error.message.endsWith(kind);
          },
        ),
      );
    }
  });
});

it('counters in a Redis that is not there keep no process from ending', { timeout: 5000 }, async () => {
  const counters = openRedisCounters('redis://127.0.0.1:1/0');
  await assert.rejects(counters.add([addition('a', 1)], false), /Redis is away/);
  counters.close();
  await assert.rejects(counters.add([addition('a', 1)], false), /Redis is away/);
});
