import { schedule } from 'node-cron';
import type { Log } from '../domain/runtime.ts';
import type { PurgeService } from '../services/conversations/purge.ts';

export interface Job {
  /** Ends the schedule; waits until a current run has finished its batch. */
  stop(): Promise<void>;
}

/** Purges immediately and then by the cron pattern, in the server's time zone. Failed runs are logged. */
export function startPurgeJob(purge: PurgeService, pattern: string, log: Log): Job {
  const abort = new AbortController();
  let running: Promise<void> | undefined;

  const run = () => {
    running ??= purge
      .run(abort.signal)
      .then(
        () => {},
        (error: unknown) => log.error({ err: error }, 'purge failed, will retry'),
      )
      .finally(() => {
        running = undefined;
      });
  };

  const task = schedule(pattern, run, { name: 'purge', suppressMissedWarning: true });
  // A process that was busy or suspended at that second purges now, not an hour later.
  task.on('execution:missed', run);
  run();

  return {
    async stop() {
      abort.abort();
      await task.destroy();
      await running;
    },
  };
}
