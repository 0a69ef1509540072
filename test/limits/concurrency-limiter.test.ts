import assert from 'node:assert/strict';
import { hash } from 'node:crypto';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import type { Permit, Policy } from '../../src/domain/limits.ts';
import { ConcurrencyLimiter } from '../../src/limits/concurrency-limiter.ts';
import { createFlexibleStore } from '../../src/limits/flexible-store.ts';
import { Limiter } from '../../src/limits/limiter.ts';
import { silentLog } from '../support/fakes.ts';
import { FakeStore } from './fake-store.ts';

const STREAMS: Policy = { name: 'streams', limit: 3, windowSeconds: null, unit: 'concurrent-requests' };
const TEN: Policy = { ...STREAMS, limit: 10 };
const HALF_MS = 15_000;

/** A place that must not have needed anybody else. */
function atOnce(place: Permit | Promise<Permit>): Permit {
  assert.ok(!(place instanceof Promise), 'it waited');
  return place;
}

describe('a concurrency that is alone', () => {
  it('has as many places for each as the limit says, and gives a place back once', () => {
    const concurrency = new ConcurrencyLimiter(null);
    const places = [1, 2, 3, 4].map(() => atOnce(concurrency.acquire(STREAMS, 'a')));
    assert.deepEqual(
      places.map(({ allowed, remaining, resetSeconds }) => [allowed, remaining, resetSeconds]),
      [
        [true, 2, null],
        [true, 1, null],
        [true, 0, null],
        [false, 0, null],
      ],
    );
    assert.equal(atOnce(concurrency.acquire(STREAMS, 'b')).allowed, true);
    for (const place of [places[3], places[0], places[0]]) place?.release();
    assert.equal(atOnce(concurrency.acquire(STREAMS, 'a')).allowed, true);
    assert.equal(atOnce(concurrency.acquire(STREAMS, 'a')).allowed, false);
  });

  it('never has more open than the limit, and remembers nobody who has nothing open', () => {
    const step = fc.tuple(fc.constantFrom('a', 'b'), fc.boolean(), fc.nat());
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const concurrency = new ConcurrencyLimiter(null);
        const held: Record<string, (() => void)[]> = { a: [], b: [] };
        for (const [subject, takes, which] of steps) {
          const mine = held[subject] ?? [];
          if (takes) {
            const place = atOnce(concurrency.acquire(STREAMS, subject));
            assert.equal(place.allowed, mine.length < STREAMS.limit);
            if (place.allowed) mine.push(place.release);
          } else if (mine.length > 0) {
            for (const release of mine.splice(which % mine.length, 1)) release();
          }
        }
        for (const release of Object.values(held).flat()) release();
        assert.equal(concurrency.size, 0);
      }),
    );
  });
});

function start(t: TestContext, size: number) {
  const store = new FakeStore();
  // Just after a half window began.
  const time = { now: Date.UTC(2024, 2, 21, 12, 30, 0) + 100 };
  const clock = { now: () => time.now };
  const alive = { processes: size };
  const processes = () => alive.processes;
  const all = Array.from({ length: size }, () => {
    const limiter = new Limiter({ store, processes, clock, log: silentLog });
    const concurrency = new ConcurrencyLimiter({ limiter, processes, clock });
    t.after(async () => {
      concurrency.stop();
      await limiter.stop();
    });
    return concurrency;
  });
  const at = (index: number) => {
    const concurrency = all[index];
    assert.ok(concurrency);
    return concurrency;
  };
  /** The clock goes on by so many half windows; those named tell in each what they have, as they do by themselves. */
  const pass = async (halves: number, living: readonly ConcurrencyLimiter[] = all) => {
    for (let n = 0; n < halves; n++) {
      time.now += HALF_MS;
      for (const concurrency of living) concurrency.tell();
      // Longer than it takes until everything is in the store.
      await delay(130);
    }
  };
  const goOn = (ms: number) => {
    time.now += ms;
  };
  return { store, all, at, pass, goOn, alive };
}

const allowed = (places: readonly Permit[]) => places.filter((place) => place.allowed);

async function burst(gauges: readonly ConcurrencyLimiter[], each: number, policy = TEN): Promise<Permit[]> {
  const asked = gauges.flatMap((concurrency) =>
    Array.from({ length: each }, () => concurrency.acquire(policy, 'a')),
  );
  return allowed(await Promise.all(asked));
}

describe('gauges of several processes', () => {
  it('let a burst in up to the last place, and at most a fifth more than there are', async (t) => {
    for (const limit of [1, 3, 10, 100]) {
      const { all } = start(t, 4);
      const places = await burst(all, limit, { ...STREAMS, limit });
      assert.ok(places.length >= limit && places.length <= limit * 1.2, `${places.length} of ${limit}`);
    }
  });

  it('give all places to somebody who comes to one process only', async (t) => {
    const { at } = start(t, 4);
    assert.equal((await burst([at(2)], 30)).length, 10);
  });

  it('hear of places that became free elsewhere', async (t) => {
    const { at } = start(t, 4);
    const places = await burst([at(0)], 10);
    assert.equal(places.length, 10);
    assert.equal((await at(1).acquire(TEN, 'a')).allowed, false);
    for (const place of places.slice(0, 4)) place.release();
    await delay(130);
    assert.equal((await burst([at(1)], 6)).length, 4);
  });

  it('count what is open for as long as it is, whatever windows pass', async (t) => {
    const { all, at, pass } = start(t, 4);
    const places = await burst([at(0)], 10);
    for (let half = 0; half < 5; half++) {
      await pass(1);
      assert.equal((await burst(all.slice(1), 1)).length, 0, `half window ${half}`);
    }
    for (const place of places) place.release();
    await delay(130);
    assert.equal((await burst([at(2)], 11)).length, 10);
  });

  it('count what was opened just before a half window ended', async (t) => {
    const { all, at, goOn } = start(t, 4);
    goOn(HALF_MS - 101);
    const before = await burst([at(0)], 6);
    goOn(1);
    const after = await burst(all, 3);
    assert.deepEqual([before.length, after.length], [6, 4]);
  });

  it('count what is asked for while a half window ends', async (t) => {
    const { all, at, store, goOn } = start(t, 4);
    goOn(HALF_MS - 101);
    store.latency = 100;
    const early = burst([at(0)], 10);
    while (store.calls.length === 0) await delay(1);
    goOn(1);
    store.latency = 1;
    const late = await burst(all.slice(1), 10);
    assert.equal(late.length + (await early).length, 10);
  });

  it('forget what a killed process had open within two half windows', async (t) => {
    const { all, at, pass } = start(t, 4);
    assert.equal((await burst([at(0)], 10)).length, 10);
    const living = all.slice(1);
    assert.equal((await burst(living, 1)).length, 0);
    await pass(2, living);
    assert.equal((await burst([at(1)], 11)).length, 10);
  });

  it('count by themselves while the store is away, and agree again later', async (t) => {
    const { store, all, at, pass } = start(t, 2);
    store.state = 'away';
    const places = await burst(all, 12);
    assert.equal(places.length, 20);
    for (const place of places.slice(0, 10)) place.release();
    store.state = 'up';
    await delay(1300);
    await pass(2);
    const more = await burst(all, 12);
    assert.ok(more.length <= 2, `${more.length}`);
    for (const place of [...places, ...more]) place.release();
    await delay(130);
    assert.equal((await burst([at(0)], 12)).length, 10);
  });

  it('is one that is alone as soon as the others are gone, and tells those who come what it has', async (t) => {
    const { at, alive } = start(t, 2);
    alive.processes = 1;
    const places = [...Array(7)].map(() => atOnce(at(0).acquire(TEN, 'a')));
    alive.processes = 2;
    at(0).tell();
    await delay(130);
    assert.equal((await burst([at(1)], 12)).length, 3);
    alive.processes = 1;
    for (const place of places) place.release();
    assert.equal([...Array(12)].filter(() => atOnce(at(0).acquire(TEN, 'a')).allowed).length, 10);
  });
});

describe('counters in a store of rate-limiter-flexible', () => {
  it('are one for each subject and window, outlive it a little, and name nobody', async () => {
    const asked: unknown[] = [];
    const store = createFlexibleStore({
      async penalty(key, points, options) {
        asked.push([key, points, options.customDuration]);
        return { consumedPoints: points + 1 };
      },
    });
    const window = { windowStart: 60_000, windowMs: 60_000 };
    const additions = [
      { counter: 'requests\na', points: 2, ...window },
      { counter: 'requests\nb', points: -1, ...window },
    ];
    assert.deepEqual(await store.add(additions, true), [3, 0]);
    assert.deepEqual(asked, [
      [hash('sha256', 'requests\na\n60000', 'base64url'), 2, 120],
      [hash('sha256', 'requests\nb\n60000', 'base64url'), -1, 120],
    ]);
  });
});
