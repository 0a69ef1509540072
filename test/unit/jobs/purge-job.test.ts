import assert from 'node:assert/strict';
import { it, type TestContext } from 'node:test';
import { startPurgeJob } from '../../../src/jobs/purge-job.ts';
import { until } from '../../support/chat-server.ts';
import { silentMetrics } from '../../support/fakes.ts';

const DAY_MS = 86_400_000;

/** A wall clock that can be set. */
function settableClock(t: TestContext): { aheadMs: number } {
  const clock = { aheadMs: 0 };
  const RealDate = Date;
  const now = () => RealDate.now() + clock.aheadMs;
  globalThis.Date = new Proxy(RealDate, {
    construct: (target, args, self) => Reflect.construct(target, args.length > 0 ? args : [now()], self),
    get: (target, name) => (name === 'now' ? now : Reflect.get(target, name)),
  });
  t.after(() => {
    globalThis.Date = RealDate;
  });
  return clock;
}

const purgeThat = (run: () => void) => ({
  run: async () => {
    run();
    return { outcome: 'done' as const, conversations: 0, messages: 0 };
  },
  removeDeleted: async () => {},
});
const log = { info() {}, warn() {}, error() {} };

it('a clock that is set far ahead makes no purge due', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const clock = settableClock(t);
  let runs = 0;
  startPurgeJob(
    purgeThat(() => {
      runs += 1;
    }),
    '0 0 1 1 *',
    silentMetrics,
    log,
  );
  // The purge at the start has ended.
  await new Promise(setImmediate);
  clock.aheadMs = 400 * DAY_MS;
  t.mock.timers.tick(5000);
  assert.equal(runs, 1, 'only the one at the start');
});

it('a purge continues within one period after the clock was set back, and ahead again', async (t) => {
  const clock = settableClock(t);
  clock.aheadMs = 30 * DAY_MS;
  let runs = 0;
  const purge = purgeThat(() => {
    runs += 1;
  });
  const job = startPurgeJob(purge, '* * * * * *', silentMetrics, log);
  t.after(() => job.stop());
  const again = async (what: string) => {
    const before = runs;
    await until(what, () => runs > before + 1);
  };
  await again('a purge by schedule');
  clock.aheadMs = 0;
  await again('a purge after the clock was set back');
  clock.aheadMs = 30 * DAY_MS;
  await again('a purge after the clock is ahead again');
});
