import assert from 'node:assert/strict';
import { after, before, describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Addition, WindowPolicy } from '../../src/domain/access/limits.ts';
import { Limiter } from '../../src/limits/limiter.ts';
import { openRedisCounters } from '../../src/limits/redis.ts';
import { silentLog } from '../support/fakes.ts';
import { provideRedis, REDIS_PASSWORD, type RedisServer, startRedis } from '../support/redis.ts';

const program = provideRedis();
const WINDOW = { windowEnd: 1_711_024_260_000, windowMs: 60_000 };
const HOUR: WindowPolicy = { name: 'exports', limit: 40, windowSeconds: 3600, unit: 'requests' };

const addition = (id: string, points: number): Addition => ({ id, points, ...WINDOW });

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `${what} did not happen`);
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

  it('add up, each by itself, beyond 32 bits too', async (t) => {
    const counters = open(t, redis.url);
    assert.equal(await counters.add(addition('a', 1)), 1);
    assert.equal(await counters.add(addition('b', 5)), 5);
    assert.equal(await counters.add(addition('a', 2)), 3);
    assert.equal(await counters.add(addition('c', 0)), 0);
    assert.equal(await counters.add(addition('many', 3_000_000_000)), 3_000_000_000);
    assert.equal(await counters.add(addition('many', 3_000_000_000)), 6_000_000_000);
  });

  it('give every addition a total of its own, from several processes at the same time', async (t) => {
    const stores = [1, 2, 3].map(() => open(t, redis.url));
    const totals = await Promise.all(
      Array.from({ length: 60 }, (_, n) => stores[n % 3]?.add(addition('ranks', 1)) ?? 0),
    );
    assert.deepEqual(
      totals.toSorted((one, other) => one - other),
      Array.from({ length: 60 }, (_, n) => n + 1),
    );
  });

  it('allow a burst of several limiters exactly up to the limit', async (t) => {
    const clock = { now: () => 1_711_024_200_000 };
    const limiters = [1, 2, 3, 4].map(() => {
      const store = open(t, redis.url);
      return new Limiter({ store, isAlone: () => false, clock, log: silentLog });
    });
    const takes = limiters.flatMap((limiter) =>
      Array.from({ length: 30 }, () => limiter.take(HOUR, 'burst')),
    );
    assert.equal((await Promise.all(takes)).filter(({ allowed }) => allowed).length, 40);
    await Promise.all(limiters.map((limiter) => limiter.stop()));
  });

  it('reject immediately without Redis, quote none of its messages, and work again when it is back', async (t) => {
    const counters = open(t, redis.url);
    await counters.add(addition('c', 1));
    await redis.kill();
    const refused = async () => {
      const error = await counters.add(addition('c', 1)).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      return error instanceof Error ? error.message : '';
    };
    await until('a refusal', async () => (await refused()) !== '');
    await until('the reason', async () => (await refused()) === 'Redis command failed: ECONNREFUSED');
    const began = performance.now();
    for (let n = 0; n < 20; n++) await refused();
    // Connecting may take two seconds.
    assert.ok(performance.now() - began < 1500);
    await redis.start();
    await until('a result', async () => (await refused()) === '');
  });

  it('time out when Redis is frozen', async (t) => {
    const counters = open(t, redis.url);
    await counters.add(addition('d', 1));
    redis.freeze();
    try {
      const began = performance.now();
      await assert.rejects(counters.add(addition('d', 1)), /^Error: Redis command failed: timeout$/);
      // Without a timeout it never ends.
      assert.ok(performance.now() - began < 20_000);
    } finally {
      redis.thaw();
    }
    await until('a result', () =>
      counters
        .add(addition('d', 0))
        .then(() => true)
        .catch(() => false),
    );
  });

  it('name neither the password nor the key when Redis denies access', async (t) => {
    const wrong = new URL(redis.url);
    wrong.password = `not-${REDIS_PASSWORD}`;
    for (const [url, kind] of [
      [wrong.href, 'WRONGPASS'],
      [redis.url.replace(/\/\/.*@/, '//'), 'NOAUTH'],
    ] as const) {
      const counters = open(t, url);
      await until(kind, () =>
        counters.add(addition('secret-subject', 1)).then(
          () => assert.fail('access was not denied'),
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

it('counters without a Redis server keep no process from ending', { timeout: 30_000 }, async () => {
  const unreachable = Promise.withResolvers<string>();
  const counters = openRedisCounters('redis://127.0.0.1:1/0', unreachable.resolve);
  assert.equal(await unreachable.promise, 'ECONNREFUSED');
  await assert.rejects(counters.add(addition('a', 1)), /Redis command failed/);
  counters.close();
  await assert.rejects(counters.add(addition('a', 1)), /Redis command failed/);
});
