import assert from 'node:assert/strict';
import { hash } from 'node:crypto';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay, setImmediate as immediate } from 'node:timers/promises';
import fc from 'fast-check';
import type { Decision, WindowPolicy } from '../../src/domain/access/limits.ts';
import { Limiter } from '../../src/limits/limiter.ts';
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

function start(t: TestContext, store: FakeStore, processes = 1) {
  const time = { now: NOON };
  const alive = { processes };
  const lines: string[] = [];
  const say = (_fields: object, message: string) => lines.push(message);
  const log = { info: say, warn: say, error: say };
  const limiters = Array.from({ length: processes }, () => {
    const clock = { now: () => time.now };
    const limiter = new Limiter({ store, isAlone: () => alive.processes === 1, clock, log });
    t.after(() => limiter.stop());
    return limiter;
  });
  const at = (index: number) => {
    const limiter = limiters[index];
    assert.ok(limiter);
    return limiter;
  };
  return { limiter: at(0), limiters, at, time, alive, lines };
}

const times = <T>(n: number, make: () => T): T[] => Array.from({ length: n }, make);
const allowed = (decisions: readonly Decision[]) => decisions.filter((decision) => decision.allowed).length;

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, 'it did not happen in time');
    await delay(2);
  }
}

describe('a limiter that is alone', () => {
  it('is exact, and reports what remains and when the window ends', async (t) => {
    const { limiter, time } = start(t, new FakeStore());
    for (let n = 1; n <= 60; n++) {
      const { allowed: yes, remaining, resetSeconds } = await limiter.take(REQUESTS, 'a');
      assert.deepEqual([yes, remaining, resetSeconds], [true, 60 - n, 40]);
    }
    time.now += 500;
    const refused = { policy: REQUESTS, allowed: false, remaining: 0, resetSeconds: 40 };
    assert.deepEqual(await limiter.take(REQUESTS, 'a'), refused);
    assert.deepEqual(await limiter.check(REQUESTS, 'a'), refused);
    assert.equal((await limiter.take(REQUESTS, 'b')).remaining, 59);
    time.now = NOON + 40_000 - 1;
    assert.deepEqual(await limiter.take(REQUESTS, 'a'), { ...refused, resetSeconds: 1 });
    time.now += 1;
    assert.deepEqual(await limiter.take(REQUESTS, 'a'), {
      policy: REQUESTS,
      allowed: true,
      remaining: 59,
      resetSeconds: 60,
    });
  });

  it('is exact in a burst', async (t) => {
    const { limiter } = start(t, new FakeStore());
    assert.equal(allowed(await Promise.all(times(200, () => limiter.take(REQUESTS, 'a')))), 60);
    assert.equal(allowed(await Promise.all(times(20, () => limiter.take(EXPORTS, 'a')))), 5);
  });

  it('allows in each window what a plain count allows', async (t) => {
    const step = fc.record({
      subject: fc.constantFrom('a', 'b', '__proto__'),
      pass: fc.oneof({ weight: 9, arbitrary: fc.nat({ max: 3000 }) }, fc.nat({ max: 3 * MINUTE })),
    });
    const small = policy({ limit: 7 });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 100 }), async (steps) => {
        const { limiter, time } = start(t, new FakeStore());
        const used = new Map<string, number>();
        for (const { subject, pass } of steps) {
          time.now += pass;
          const window = `${subject} ${Math.floor(time.now / MINUTE)}`;
          const before = used.get(window) ?? 0;
          used.set(window, Math.min(before + 1, small.limit));
          assert.equal((await limiter.take(small, subject)).allowed, before < small.limit);
        }
      }),
    );
  });

  it('counts charges beyond the limit, and then allows nothing', async (t) => {
    const { limiter } = start(t, new FakeStore());
    assert.equal((await limiter.check(TOKENS, 'a')).allowed, true);
    limiter.charge(TOKENS, 'a', 5000);
    const { remaining, allowed: yes } = await limiter.check(TOKENS, 'a');
    assert.deepEqual([remaining, yes], [0, false]);
    assert.equal((await limiter.check(TOKENS, 'b')).allowed, true);
  });

  it('drops the oldest of more subjects than it can hold; stored counts survive that', async (t) => {
    const { limiter } = start(t, new FakeStore());
    const failures = policy({ name: 'auth-failures', limit: 1 });
    await Promise.all(times(5, () => limiter.take(EXPORTS, 'a')));
    for (let n = 0; n < 100_010; n++) await limiter.take(failures, `subject ${n}`);
    assert.equal((await limiter.take(EXPORTS, 'a')).allowed, false);
    assert.equal((await limiter.take(failures, 'subject 100009')).allowed, false);
    assert.equal((await limiter.take(failures, 'subject 0')).allowed, true);
  });

  it('stores only windows longer than a minute, which survive a restart', async (t) => {
    const store = new FakeStore();
    const { limiter } = start(t, store);
    assert.equal((await limiter.take(REQUESTS, 'a')).allowed, true);
    assert.equal(allowed(await Promise.all(times(8, () => limiter.take(EXPORTS, 'a')))), 5);
    limiter.charge(TOKENS, 'a', 999);
    await limiter.stop();
    assert.deepEqual(
      new Set(store.additions.map(({ windowMs }) => windowMs)),
      new Set([3_600_000, 86_400_000]),
    );
    const { limiter: restarted } = start(t, store);
    assert.equal((await restarted.take(EXPORTS, 'a')).allowed, false);
    assert.equal((await restarted.take(EXPORTS, 'b')).allowed, true);
    assert.equal((await restarted.check(TOKENS, 'a')).remaining, 1);
  });

  it('asks the store once per window, and later decides without it', async (t) => {
    const store = new FakeStore();
    const { limiter } = start(t, store);
    assert.equal((await limiter.check(TOKENS, 'a')).remaining, 1000);
    store.state = 'frozen';
    limiter.charge(TOKENS, 'a', 10);
    assert.equal((await limiter.check(TOKENS, 'a')).remaining, 990);
    await delay(20);
    store.thaw();
  });
});

describe('limiters of several processes', () => {
  it('allow a burst exactly up to the limit', async (t) => {
    for (const limit of [1, 10, 60, 500]) {
      const store = new FakeStore();
      const { limiters } = start(t, store, 4);
      const burst = policy({ limit });
      const takes = limiters.flatMap((limiter) => times(limit, () => limiter.take(burst, 'a')));
      assert.equal(allowed(await Promise.all(takes)), limit);
      // One batch while the first is under way, and at most one more for what the others took meanwhile.
      assert.ok(store.additions.length <= 12, `${store.additions.length} additions`);
    }
  });

  it('allow exactly the limit in each window when a burst runs over its end', async (t) => {
    const store = new FakeStore();
    const { limiters, time } = start(t, store, 4);
    const burst = () => limiters.flatMap((limiter) => times(60, () => limiter.take(REQUESTS, 'a')));
    const before = burst();
    time.now = NOON + 40_000;
    const after = burst();
    assert.deepEqual([allowed(await Promise.all(before)), allowed(await Promise.all(after))], [60, 60]);
  });

  it('use one addition for a request, and none when the limit is known to be reached', async (t) => {
    const store = new FakeStore();
    const { at } = start(t, store, 2);
    for (let n = 0; n < 5; n++) await at(n % 2).take(EXPORTS, 'a');
    assert.equal(store.additions.length, 5);
    assert.equal((await at(0).take(EXPORTS, 'a')).allowed, false);
    assert.equal((await at(0).take(EXPORTS, 'a')).allowed, false);
    assert.ok(store.additions.length <= 6);
  });

  it('see each other’s charges within a second', async (t) => {
    const store = new FakeStore();
    const { at } = start(t, store, 2);
    assert.equal((await at(1).check(TOKENS, 'a')).remaining, 1000);
    at(0).charge(TOKENS, 'a', 1000);
    await until(() => store.total === 1000);
    // A timer may be a millisecond early.
    await delay(1010);
    assert.equal((await at(1).check(TOKENS, 'a')).allowed, false);
  });

  it('hand all counts to the store when they stop', async (t) => {
    const store = new FakeStore();
    const { limiter } = start(t, store, 2);
    limiter.charge(TOKENS, 'a', 12);
    limiter.charge(REQUESTS, 'a', 3);
    await limiter.stop();
    assert.equal(store.total, 15);
  });

  it('count in memory again when the others are gone', async (t) => {
    const store = new FakeStore();
    const { limiter, alive } = start(t, store, 2);
    await limiter.take(REQUESTS, 'a');
    alive.processes = 1;
    assert.equal((await limiter.take(REQUESTS, 'a')).remaining, 58);
    assert.equal(store.additions.length, 1);
  });

  it('store hashes of policy, subject and window, and no subject', async (t) => {
    const store = new FakeStore();
    const { limiter } = start(t, store, 2);
    await limiter.take(REQUESTS, 'address 192.0.2.1');
    const windowStart = NOON - 20_000;
    const id = hash('sha256', `requests\naddress 192.0.2.1\n${windowStart}`, 'base64url');
    const windowEnd = windowStart + MINUTE;
    assert.deepEqual(store.additions, [{ id, points: 1, windowEnd, windowMs: MINUTE }]);
  });
});

describe('a limiter whose store is down', () => {
  it('is exact for its process, and sends its counts when the store is back', async (t) => {
    const store = new FakeStore();
    const { limiter, lines } = start(t, store, 2);
    store.state = 'down';
    assert.equal(allowed(await Promise.all(times(70, () => limiter.take(REQUESTS, 'a')))), 60);
    assert.equal((await limiter.take(EXPORTS, 'b')).remaining, 4);
    store.state = 'up';
    await until(() => store.total >= 70);
    assert.equal((await limiter.take(EXPORTS, 'b')).remaining, 3);
    await until(() => store.total === 72);
    assert.deepEqual(lines, [
      'rate limit store unavailable, counting locally',
      'rate limit store available again',
    ]);
    assert.equal((await limiter.take(REQUESTS, 'a')).allowed, false);
  });

  it('waits half a second for a frozen one, no longer, and counts nothing twice when it thaws', async (t) => {
    const store = new FakeStore();
    const { limiter, lines } = start(t, store, 2);
    store.state = 'frozen';
    const began = performance.now();
    const first = times(8, () => limiter.take(EXPORTS, 'a'));
    await until(() => store.additions.length === 1);
    // Requests that arrive meanwhile do not wait longer.
    const late = times(9, () => limiter.take(EXPORTS, 'a'));
    assert.equal(allowed(await Promise.all([...first, ...late])), 5);
    const waited = performance.now() - began;
    assert.ok(waited > 400 && waited < 3000, `${waited}`);
    // Decided before anything that takes time.
    const again = await Promise.race([limiter.take(EXPORTS, 'b'), immediate(undefined)]);
    assert.equal(again?.remaining, 4);
    assert.deepEqual(lines, ['rate limit store unavailable, counting locally']);
    store.state = 'up';
    store.thaw();
    await until(() => store.total === 8);
  });

  it('probes the store once a second, in the background', async (t) => {
    const store = new FakeStore();
    const { limiter } = start(t, store, 2);
    store.state = 'down';
    const began = performance.now();
    for (let n = 0; performance.now() - began < 2500; n++) {
      await limiter.take(REQUESTS, `${n}`);
      await delay(5);
    }
    assert.ok(store.additions.length <= 4, `${store.additions.length} additions`);
  });

  it('never rejects and never waits for ever, whatever the store does', async (t) => {
    const states = fc.array(fc.constantFrom('up' as const, 'down' as const), { minLength: 1, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(states, fc.nat({ max: 20 }), async (sequence, latency) => {
        const store = new FakeStore();
        store.latency = latency;
        const { limiters } = start(t, store, 2);
        const takes: Promise<Decision>[] = [];
        for (const state of sequence) {
          store.state = state;
          for (const limiter of limiters) {
            takes.push(limiter.take(EXPORTS, 'a'), limiter.take(REQUESTS, 'a'));
          }
          await delay(5);
        }
        assert.ok(allowed(await Promise.all(takes)) > 0);
        await Promise.all(limiters.map((limiter) => limiter.stop()));
      }),
      { numRuns: 20 },
    );
  });
});
