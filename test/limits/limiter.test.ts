import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import type { Decision, WindowPolicy } from '../../src/domain/limits.ts';
import { Limiter } from '../../src/limits/limiter.ts';
import { silentLog } from '../support/fakes.ts';
import { FakeStore } from './fake-store.ts';

const MINUTE = 60_000;
/** In the middle of a minute, an hour and a day. */
const NOON = Date.UTC(2024, 2, 21, 12, 30, 20);

const policy = (over: Partial<WindowPolicy> = {}): WindowPolicy => ({
  name: 'requests',
  limit: 60,
  windowSeconds: 60,
  unit: 'requests',
  ...over,
});

const REQUESTS = policy();
const EXPORTS = policy({ name: 'exports', limit: 5, windowSeconds: 3600 });
const TOKENS = policy({ name: 'tokens', limit: 1000, windowSeconds: 86_400, unit: 'tokens' });

function start(t: TestContext, store: FakeStore | null, processes = 1) {
  const time = { now: NOON };
  const limiters = Array.from({ length: processes }, () => {
    const clock = { now: () => time.now };
    const limiter = new Limiter({ store, processes: () => processes, clock, log: silentLog });
    t.after(() => limiter.stop());
    return limiter;
  });
  const [limiter] = limiters;
  assert.ok(limiter);
  return { limiter, limiters, time };
}

/** A decision that must not have needed anybody else. */
function atOnce(decision: Decision | Promise<Decision>): Decision {
  assert.ok(!(decision instanceof Promise), 'it waited');
  return decision;
}

const allowed = (decisions: readonly Decision[]) => decisions.filter((decision) => decision.allowed).length;

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, 'it did not happen in time');
    await delay(2);
  }
}

describe('a limiter that is alone', () => {
  it('is exact, decides at once, and tells what is left until when', (t) => {
    const { limiter, time } = start(t, null);
    for (let n = 1; n <= 60; n++) {
      const { allowed: yes, remaining, resetSeconds } = atOnce(limiter.take(REQUESTS, 'a'));
      assert.deepEqual([yes, remaining, resetSeconds], [true, 60 - n, 40]);
    }
    time.now += 500;
    const refused = { policy: REQUESTS, allowed: false, remaining: 0, resetSeconds: 40 };
    assert.deepEqual(atOnce(limiter.take(REQUESTS, 'a')), refused);
    assert.deepEqual(limiter.peek(REQUESTS, 'a'), refused);
    assert.equal(atOnce(limiter.take(REQUESTS, 'b')).remaining, 59);
    time.now = NOON + 40_000 - 1;
    assert.deepEqual(atOnce(limiter.take(REQUESTS, 'a')), { ...refused, resetSeconds: 1 });
    time.now += 1;
    assert.deepEqual(atOnce(limiter.take(REQUESTS, 'a')), {
      policy: REQUESTS,
      allowed: true,
      remaining: 59,
      resetSeconds: 60,
    });
  });

  it('lets through in each window what a plain count lets through', (t) => {
    const step = fc.record({
      subject: fc.constantFrom('a', 'b', '__proto__'),
      cost: fc.nat({ max: 4 }),
      pass: fc.oneof({ weight: 9, arbitrary: fc.nat({ max: 3000 }) }, fc.nat({ max: 3 * MINUTE })),
    });
    const small = policy({ limit: 7 });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
        const { limiter, time } = start(t, null);
        const used = new Map<string, number>();
        for (const { subject, cost, pass } of steps) {
          time.now += pass;
          const window = `${subject} ${Math.floor(time.now / MINUTE)}`;
          const before = used.get(window) ?? 0;
          const yes = before + Math.max(cost, 1) <= small.limit;
          if (yes) used.set(window, before + cost);
          assert.equal(atOnce(limiter.take(small, subject, cost)).allowed, yes);
        }
      }),
    );
  });

  it('counts what has happened over the limit too, and then lets nothing through', (t) => {
    const { limiter } = start(t, null);
    assert.equal(atOnce(limiter.take(TOKENS, 'a', 0)).allowed, true);
    limiter.charge(TOKENS, 'a', 5000);
    assert.deepEqual(atOnce(limiter.take(TOKENS, 'a', 0)).remaining, 0);
    assert.equal(atOnce(limiter.take(TOKENS, 'a', 0)).allowed, false);
    assert.equal(limiter.peek(TOKENS, 'b').allowed, true);
  });

  it('forgets the oldest of more strangers than it can hold, and no subject of another policy', (t) => {
    const { limiter } = start(t, null);
    const failures = policy({ name: 'auth-failures', limit: 1 });
    atOnce(limiter.take(EXPORTS, 'a', 5));
    for (let n = 0; n < 100_010; n++) atOnce(limiter.take(failures, `stranger ${n}`));
    assert.equal(atOnce(limiter.take(EXPORTS, 'a')).allowed, false);
    assert.equal(atOnce(limiter.take(failures, 'stranger 100009')).allowed, false);
    assert.equal(atOnce(limiter.take(failures, 'stranger 0')).allowed, true);
  });

  it('keeps only what is counted for longer than a minute, so that a restart gives nobody a new day', async (t) => {
    const store = new FakeStore();
    const { limiter } = start(t, store);
    assert.equal(atOnce(limiter.take(REQUESTS, 'a')).allowed, true);
    const first = await Promise.all(Array.from({ length: 8 }, () => limiter.take(EXPORTS, 'a')));
    assert.equal(allowed(first), 5);
    await limiter.stop();
    assert.deepEqual(
      new Set(store.calls.flatMap(({ additions }) => additions.map((one) => one.counter))),
      new Set(['exports\na']),
    );
    const { limiter: restarted } = start(t, store);
    assert.equal((await restarted.take(EXPORTS, 'a')).allowed, false);
    assert.equal((await restarted.take(EXPORTS, 'b')).allowed, true);
  });
});

describe('limiters of several processes', () => {
  it('let a burst through to the last request, and at most a fifth more than the limit', async (t) => {
    for (const limit of [1, 10, 60, 500]) {
      const store = new FakeStore();
      const { limiters } = start(t, store, 4);
      const burst = policy({ limit });
      const takes = limiters.flatMap((limiter) =>
        Array.from({ length: limit + 5 }, () => limiter.take(burst, 'a')),
      );
      const through = allowed(await Promise.all(takes));
      assert.ok(through >= limit && through <= limit * 1.2, `${through} of ${limit}`);
    }
  });

  it('let a steady stream through at once, and no more than a fifth over the limit', async (t) => {
    const store = new FakeStore();
    const { limiters } = start(t, store, 4);
    let through = 0;
    let waited = 0;
    const count = async (decision: Decision | Promise<Decision>) => {
      if (decision instanceof Promise) waited += 1;
      if ((await decision).allowed) through += 1;
    };
    const stream = policy({ limit: 100 });
    const began = performance.now();
    const running: Promise<void>[] = [];
    while (performance.now() - began < 1500) {
      for (const limiter of limiters) running.push(count(limiter.take(stream, 'a')));
      await delay(40);
    }
    await Promise.all(running);
    assert.ok(through >= 100 && through <= 120, `${through}`);
    assert.equal(waited, 0);
  });

  it('write a counter at most once in 100 ms each, however often it is used', async (t) => {
    const store = new FakeStore();
    const { limiters } = start(t, store, 2);
    const busy = policy({ limit: 100_000 });
    const [mine, other] = limiters;
    assert.ok(mine && other);
    const began = performance.now();
    while (performance.now() - began < 700) {
      for (let n = 0; n < 20; n++) atOnce(mine.take(busy, 'a'));
      mine.charge(EXPORTS, `${performance.now()}`, 1);
      await delay(1);
    }
    await mine.stop();
    const writes = store.calls.filter(({ additions }) =>
      additions.some((one) => one.counter === 'requests\na'),
    );
    assert.ok(writes.length >= 3);
    // The last one is that of the stop, which waits for nothing.
    for (const [index, { at }] of writes.slice(0, -1).entries()) {
      assert.ok(at - (writes[index - 1]?.at ?? 0) >= 99, 'too soon');
    }
  });

  it('do not keep somebody waiting who comes alone', async (t) => {
    const { limiter } = start(t, new FakeStore(), 4);
    const began = performance.now();
    for (let n = 0; n < 10; n++) await limiter.take(EXPORTS, `${n}`);
    // Each waiting for its 100 ms, they would have taken a second.
    assert.ok(performance.now() - began < 700);
  });

  it('give back what those wanted who were refused', async (t) => {
    const store = new FakeStore();
    const { limiters } = start(t, store, 2);
    const [one, other] = limiters;
    assert.ok(one && other);
    assert.equal((await one.take(EXPORTS, 'a', 3)).allowed, true);
    assert.equal((await other.take(EXPORTS, 'a', 4)).allowed, false);
    await until(() => store.total === 3);
    assert.equal((await one.take(EXPORTS, 'a', 2)).allowed, true);
  });

  it('hear of what others used before the first request of the day', async (t) => {
    const store = new FakeStore();
    const { limiters } = start(t, store, 2);
    const [one, other] = limiters;
    assert.ok(one && other);
    one.charge(TOKENS, 'a', 1000);
    await until(() => store.total === 1000);
    assert.equal((await other.take(TOKENS, 'a', 0)).allowed, false);
  });

  it('tell the store at the end what it does not know yet', async (t) => {
    const store = new FakeStore();
    const { limiter } = start(t, store, 2);
    limiter.charge(TOKENS, 'a', 12);
    limiter.charge(REQUESTS, 'a', 3);
    await limiter.stop();
    assert.equal(store.total, 15);
  });

  it('keep the windows apart when one ends while its counts are under way', async (t) => {
    const store = new FakeStore();
    const { limiter, time } = start(t, store, 2);
    limiter.charge(REQUESTS, 'a', 7);
    time.now += MINUTE;
    assert.equal(atOnce(limiter.take(REQUESTS, 'a')).remaining, 59);
    await limiter.stop();
    assert.deepEqual([...store.counters.values()].toSorted(), [1, 7]);
  });
});

describe('a limiter whose store is away', () => {
  it('goes on by itself, exact for this process, and tells the store later', async (t) => {
    const store = new FakeStore();
    const { limiter } = start(t, store, 2);
    store.state = 'away';
    const first = await Promise.all(Array.from({ length: 70 }, () => limiter.take(REQUESTS, 'a')));
    assert.equal(allowed(first), 60);
    assert.equal(atOnce(limiter.take(REQUESTS, 'b')).allowed, true);
    assert.equal(atOnce(limiter.take(EXPORTS, 'b')).remaining, 4);
    // The next attempt, of which nothing may be left behind either.
    const attempts = store.calls.length;
    await until(() => store.calls.length > attempts + 1);
    assert.equal(atOnce(limiter.take(EXPORTS, 'b')).remaining, 3);
    store.state = 'up';
    await until(() => store.total === 63);
  });

  it('waits half a second for one that is frozen, no longer, and counts nothing twice when it thaws', async (t) => {
    const store = new FakeStore();
    const { limiter } = start(t, store, 2);
    // What others used is heard of too late: those who were let through stay counted.
    const hour = { windowStart: NOON - (NOON % (60 * MINUTE)), windowMs: 60 * MINUTE };
    await store.add([{ counter: 'exports\na', points: 3, ...hour }]);
    store.state = 'frozen';
    const began = performance.now();
    const take = (length: number, subject: string) =>
      Array.from({ length }, () => limiter.take(EXPORTS, subject));
    const takes = take(8, 'a');
    await until(() => store.calls.length === 2);
    // Those who come while the store is asked do not wait for longer.
    const late = await Promise.all(take(9, 'c'));
    const first = await Promise.all(takes);
    const waited = performance.now() - began;
    assert.ok(waited > 400 && waited < 3000, `${waited}`);
    assert.deepEqual([allowed(first), allowed(late)], [5, 5]);
    assert.equal(atOnce(limiter.take(EXPORTS, 'a')).allowed, false);
    assert.equal(atOnce(limiter.take(EXPORTS, 'b')).allowed, true);
    store.state = 'up';
    store.thaw();
    await until(() => store.calls.length === 3);
    await until(() => store.total === 14);
    assert.equal((await limiter.take(EXPORTS, 'b')).remaining, 3);
  });

  it('never rejects and keeps nobody waiting for ever, whatever the store does', async (t) => {
    const states = fc.array(fc.constantFrom('up' as const, 'away' as const), { minLength: 1, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(states, fc.nat({ max: 20 }), async (sequence, latency) => {
        const store = new FakeStore();
        store.latency = latency;
        const { limiters } = start(t, store, 2);
        const takes: (Decision | Promise<Decision>)[] = [];
        for (const state of sequence) {
          store.state = state;
          for (const limiter of limiters) {
            takes.push(limiter.take(EXPORTS, 'a'), limiter.take(REQUESTS, 'a', 5));
          }
          await delay(5);
        }
        const decisions = await Promise.all(takes);
        assert.ok(allowed(decisions) > 0);
        await Promise.all(limiters.map((limiter) => limiter.stop()));
      }),
      { numRuns: 20 },
    );
  });
});
