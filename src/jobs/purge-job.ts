import { schedule } from 'node-cron';
import { isDatabaseError } from '../domain/errors.ts';
import type { Log } from '../domain/runtime.ts';
import type { PurgeService } from '../services/conversations/purge.ts';

export interface Job {
  /** Ends the schedule and waits for a run in progress, which stops after its current slice. */
  stop(): Promise<void>;
}

/** Deletions of this process, and of processes that were killed, leave rows to be removed. */
const REMOVAL_MS = 2000;

/**
 * Purges immediately and then by the cron pattern (server's time zone), and removes the rows of deleted conversations
 * in between. A failed run is logged, and the next one tries again.
 */
export function startPurgeJob(purge: PurgeService, pattern: string, log: Log): Job {
  const abort = new AbortController();
  const run = once(
    () => purge.run(abort.signal),
    (error) => log.error({ err: error }, 'purge failed, will retry'),
  );
  const remove = once(
    () => purge.removeDeleted(abort.signal),
    (error) => {
      // The writer logs that the database is unavailable.
      if (!isDatabaseError(error)) log.error({ err: error }, 'removal of deleted rows failed, will retry');
    },
  );
  const task = schedule(pattern, run.start, { name: 'purge', suppressMissedWarning: true });
  // A process that was busy or suspended at that second purges now, not an hour later.
  task.on('execution:missed', run.start);
  const timer = setInterval(remove.start, REMOVAL_MS).unref();
  run.start();
  return {
    async stop() {
      abort.abort();
      clearInterval(timer);
      await task.destroy();
      await Promise.all([run.idle(), remove.idle()]);
    },
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
