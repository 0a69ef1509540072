import { schedule } from 'node-cron';
import type { Log } from '../domain/runtime.ts';
import type { PurgeService } from '../services/conversations/purge.ts';

export interface Job {
  /** Ends the schedule and waits for a run under way, which stops after its current batch. */
  stop(): Promise<void>;
}

/** Purges at once and then by the cron pattern (server's time zone); a failed run is logged, the next one tries again. */
export function startPurgeJob(purge: PurgeService, pattern: string, log: Log): Job {
  const abort = new AbortController();
  let running: Promise<void> | undefined;

  const run = () => {
    running ??= purge
      .run(abort.signal)
      .then(
        () => {},
        (error: unknown) => log.error({ err: error }, 'the purge failed; the next run tries again'),
      )
      .finally(() => {
        running = undefined;
      });
  };

  const task = schedule(pattern, run, { name: 'purge' });
  run();

  return {
    async stop() {
      abort.abort();
      await task.destroy();
      await running;
    },
  };
}
