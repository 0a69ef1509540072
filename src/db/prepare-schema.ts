import type { Logger } from 'pino';
import { pause, unlessAborted } from '../util/timers.ts';
import { isDatabaseDown, isFileError } from './core/errors.ts';
import type { Database } from './database.ts';

const RETRY_MS = 2000;
const LOG_INTERVAL_MS = 60_000;

/** The schema is older than this version, and DB_AUTO_MIGRATE is off. */
export class PendingMigrationsError extends Error {
  constructor(pending: readonly string[]) {
    super(
      `The schema of the database is older than this version; ${pending.length} migrations are pending ` +
        `(${pending.join(', ')}). Run "npm run migrate", or set DB_AUTO_MIGRATE=on.`,
    );
    this.name = 'PendingMigrationsError';
  }
}

export interface PrepareOptions {
  readonly autoMigrate: boolean;
  /** Ends the retries, and the wait for a database that does not respond, but no migration. */
  readonly signal: AbortSignal;
  readonly retryMs?: number;
}

/**
 * Migrates the schema, or checks that it is up to date, and that rows can be written. When the database is down the server starts without being
 * ready, and this is retried in the background.
 * @returns resolves immediately when the database is down; `done` resolves when the schema is up to date
 * @throws PendingMigrationsError; the driver's error when the database denies access or SQLite's file cannot be used; the
 * signal's reason
 */
export async function prepareSchema(
  database: Pick<Database, 'migrate' | 'pendingMigrations' | 'checkWritable' | 'describe'>,
  options: PrepareOptions,
  logger: Logger,
): Promise<{ readonly done: Promise<void> }> {
  try {
    await prepareOnce(database, options, logger);
    return { done: Promise.resolve() };
  } catch (error) {
    if (options.signal.aborted || !isDatabaseDown(error) || isFileError(error)) throw error;
    logger.warn({ database: database.describe() }, 'database unavailable, starting without it');
    return { done: retryUntilReady(database, options, logger) };
  }
}

async function prepareOnce(
  database: Pick<Database, 'migrate' | 'pendingMigrations' | 'checkWritable'>,
  { autoMigrate, signal }: PrepareOptions,
  logger: Logger,
): Promise<void> {
  const pending = await unlessAborted(signal, database.pendingMigrations());
  if (pending.length > 0) {
    if (!autoMigrate) throw new PendingMigrationsError(pending);
    const applied = await database.migrate();
    logger.info({ count: applied.length, last: applied.at(-1) }, 'migrated the database');
  }
  await unlessAborted(signal, database.checkWritable());
}

async function retryUntilReady(
  database: Pick<Database, 'migrate' | 'pendingMigrations' | 'checkWritable'>,
  options: PrepareOptions,
  logger: Logger,
): Promise<void> {
  const { signal, retryMs = RETRY_MS } = options;
  let loggedAt = Number.NEGATIVE_INFINITY;
  while (!signal.aborted) {
    await pause(retryMs, signal);
    if (signal.aborted) return;
    try {
      await prepareOnce(database, options, logger);
      logger.info('database available');
      return;
    } catch (error) {
      if (signal.aborted) return;
      if (isDatabaseDown(error) || performance.now() - loggedAt < LOG_INTERVAL_MS) continue;
      loggedAt = performance.now();
      logger.error({ err: error }, 'database schema check failed');
    }
  }
}
