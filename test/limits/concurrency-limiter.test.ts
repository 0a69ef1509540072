import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { Policy } from '../../src/domain/access/limits.ts';
import { ConcurrencyLimiter } from '../../src/limits/concurrency-limiter.ts';

const STREAMS: Policy = { name: 'streams', limit: 3, windowSeconds: null, unit: 'concurrent-requests' };
const alone = () => new ConcurrencyLimiter(() => 1);

describe('the concurrency limit of one process', () => {
  it('grants each subject as many permits as the limit says, and takes a permit back once', () => {
    const concurrency = alone();
    const permits = [1, 2, 3, 4].map(() => concurrency.acquire(STREAMS, 'a'));
    assert.deepEqual(
      permits.map(({ allowed, remaining, resetSeconds }) => [allowed, remaining, resetSeconds]),
      [
        [true, 2, null],
        [true, 1, null],
        [true, 0, null],
        [false, 0, null],
      ],
    );
    assert.equal(concurrency.acquire(STREAMS, 'b').allowed, true);
    for (const permit of [permits[3], permits[0], permits[0]]) permit?.release();
    assert.equal(concurrency.acquire(STREAMS, 'a').allowed, true);
    assert.equal(concurrency.acquire(STREAMS, 'a').allowed, false);
  });

  it('never has more open than the limit, and keeps no subject that has nothing open', () => {
    const step = fc.tuple(fc.constantFrom('a', 'b'), fc.boolean(), fc.nat());
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const concurrency = alone();
        const held: Record<string, (() => void)[]> = { a: [], b: [] };
        for (const [subject, takes, which] of steps) {
          const mine = held[subject] ?? [];
          if (takes) {
            const permit = concurrency.acquire(STREAMS, subject);
            assert.equal(permit.allowed, mine.length < STREAMS.limit);
            if (permit.allowed) mine.push(permit.release);
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

describe('the concurrency limit of several processes', () => {
  it('is divided among them and rounded up', () => {
    for (const [limit, processes, share] of [
      [1, 4, 1],
      [10, 4, 3],
      [12, 4, 3],
      [100, 3, 34],
    ] as const) {
      const concurrency = new ConcurrencyLimiter(() => processes);
      const permits = Array.from({ length: limit + 1 }, () =>
        concurrency.acquire({ ...STREAMS, limit }, 'a'),
      );
      assert.equal(permits.filter(({ allowed }) => allowed).length, share, `${limit} by ${processes}`);
    }
  });

  it('follows the number of processes, and keeps the permits that are held', () => {
    const alive = { processes: 1 };
    const concurrency = new ConcurrencyLimiter(() => alive.processes);
    const ten = { ...STREAMS, limit: 10 };
    const permits = Array.from({ length: 7 }, () => concurrency.acquire(ten, 'a'));
    alive.processes = 2;
    assert.equal(concurrency.acquire(ten, 'a').allowed, false);
    for (const permit of permits.slice(0, 3)) permit.release();
    assert.equal(concurrency.acquire(ten, 'a').allowed, true);
    alive.processes = 1;
    const more = Array.from({ length: 10 }, () => concurrency.acquire(ten, 'a'));
    assert.equal(more.filter(({ allowed }) => allowed).length, 5);
  });
});
