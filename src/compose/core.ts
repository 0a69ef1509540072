import type { Config } from '../config/config.ts';
import type { Metrics } from '../domain/metrics.ts';
import type { Clock, IdSource } from '../domain/runtime.ts';
import type { Logger } from '../logger.ts';
import type { Storage } from './storage.ts';

/** What every feature is built from. */
export interface Core
  extends Pick<Storage, 'database' | 'writer' | 'processes' | 'isDatabaseUp' | 'isAlive' | 'isWritable'> {
  readonly config: Config;
  readonly metrics: Metrics;
  /** The id of this process: a UUID that no other process has or had. */
  readonly worker: string;
  readonly clock: Clock;
  readonly ids: IdSource;
  readonly log: Logger;
  /** Secrets that sign links and cursors, the newest first. */
  readonly secrets: () => Promise<readonly string[]>;
}
