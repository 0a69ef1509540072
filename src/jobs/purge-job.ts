import { createTask } from 'node-cron';
import type { Counts } from '../domain/conversations/conversation.ts';
import { isDatabaseError } from '../domain/errors.ts';
import type { Metrics } from '../domain/metrics.ts';
import type { Log } from '../domain/runtime.ts';
import type { PurgeService } from '../services/conversations/purge.ts';

export interface Job {
  /** Ends the schedule and waits for a run in progress, which stops after its current slice. */
  stop(): Promise<void>;
}

/** Deletions of this process, and of processes that were killed, leave rows to be removed. */
const REMOVAL_MS = 2000;
const TICK_MS = 500;

/**
 * Purges immediately and then by the cron pattern (server's time zone), and removes the rows of deleted conversations
 * in between. A failed run is logged, and the next one tries again.
 */
export function startPurgeJob(
  purge: Pick<PurgeService, 'run' | 'removeDeleted'>,
  pattern: string,
  metrics: Pick<Metrics, 'purged'>,
  log: Log,
): Job {
  const abort = new AbortController();
  const run = once(
    () => purge.run(abort.signal, countPurged(metrics)),
    (error) => log.error({ err: error }, 'purge failed, will retry'),
  );
  const remove = once(
    () => purge.removeDeleted(abort.signal),
    (error) => {
      // The writer logs that the database is unavailable.
      if (!isDatabaseError(error)) log.error({ err: error }, 'removal of deleted rows failed, will retry');
    },
  );
  const schedule = scheduleOf(pattern);
  const timers = [
    setInterval(remove.start, REMOVAL_MS),
    setInterval(() => schedule.isDue() && run.start(), TICK_MS),
  ];
  for (const timer of timers) timer.unref();
  run.start();
  return {
    async stop() {
      abort.abort();
      for (const timer of timers) clearInterval(timer);
      await Promise.all([run.idle(), remove.idle()]);
    },
  };
}

/** Counts what each slice adds to the totals. */
function countPurged(metrics: Pick<Metrics, 'purged'>): (total: Counts) => void {
  let counted: Counts = { conversations: 0, messages: 0 };
  return ({ conversations, messages }) => {
    metrics.purged({
      conversations: conversations - counted.conversations,
      messages: messages - counted.messages,
    });
    counted = { conversations, messages };
  };
}

/** Skips a start while the work runs. */
function once(work: () => Promise<unknown>, onError: (error: unknown) => void) {
  let running: Promise<void> | undefined;
  return {
    start() {
      running ??= work()
        .then(() => {}, onError)
        .finally(() => {
          running = undefined;
        });
    },
    idle: () => running,
  };
}

/** A larger difference between the wall clock and the monotonic one means that the clock was set. */
const STEP_MS = 60_000;

/**
 * The times of a cron pattern. node-cron's own timers wait for the old time after the clock was set back, and run once
 * for each time that was skipped when it was set forward; here a process that was busy runs once. A clock that is set
 * makes nothing due: if it is wrong, it may be set right before the next time, and nothing has expired.
 */
function scheduleOf(pattern: string): { isDue(): boolean } {
  const times = createTask(pattern, () => {});
  const next = () => times.getNextRuns(1)[0]?.getTime() ?? Number.POSITIVE_INFINITY;
  let now = Date.now();
  let monotonic = performance.now();
  let due = next();
  return {
    isDue() {
      const [before, since] = [now, monotonic];
      now = Date.now();
      monotonic = performance.now();
      const isReached = now >= due;
      if (isReached || now < before) due = next();
      return isReached && now - before < monotonic - since + STEP_MS;
    },
  };
}
