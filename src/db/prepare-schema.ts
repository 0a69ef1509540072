import type { Logger } from 'pino';
import { pause } from '../util/timers.ts';
import { isDatabaseDown } from './core/errors.ts';
import type { Database } from './database.ts';

/** How long until an absent database is tried again, milliseconds. */
const RETRY_MS = 2000;

/** The schema is older than this version and may not be changed without being asked. */
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
  /** Ends the waiting for an absent database. */
  readonly signal: AbortSignal;
  readonly retryMs?: number;
}

/**
 * Brings the schema up to date, or makes sure that it is. While the database is away the server starts all the same
 * and is not ready; this goes on in the background then.
 * @returns resolves at once when the database is away; `done` resolves when the schema is right
 * @throws PendingMigrationsError, and whatever else a database that answers objects to (password, rights, name)
 */
export async function prepareSchema(
  database: Pick<Database, 'migrate' | 'pendingMigrations' | 'describe'>,
  options: PrepareOptions,
  logger: Logger,
): Promise<{ readonly done: Promise<void> }> {
  try {
    await prepareOnce(database, options.autoMigrate, logger);
    return { done: Promise.resolve() };
  } catch (error) {
    if (!isDatabaseDown(error)) throw error;
    logger.warn(
      { database: database.describe() },
      'the database does not answer; starting without it, not ready',
    );
    return { done: keepTrying(database, options, logger) };
  }
}

async function prepareOnce(
  database: Pick<Database, 'migrate' | 'pendingMigrations'>,
  autoMigrate: boolean,
  logger: Logger,
): Promise<void> {
  const pending = await database.pendingMigrations();
  if (pending.length === 0) return;
  if (!autoMigrate) throw new PendingMigrationsError(pending);
  const applied = await database.migrate();
  logger.info({ applied }, 'migrated the database');
}

async function keepTrying(
  database: Pick<Database, 'migrate' | 'pendingMigrations'>,
  { autoMigrate, signal, retryMs = RETRY_MS }: PrepareOptions,
  logger: Logger,
): Promise<void> {
  while (!signal.aborted) {
    await pause(retryMs, signal);
    if (signal.aborted) return;
    try {
      await prepareOnce(database, autoMigrate, logger);
      logger.info('the database answers');
      return;
    } catch (error) {
      // The server already runs: what would have kept it from starting keeps it from being ready, and is told.
      if (!isDatabaseDown(error)) logger.error({ err: error }, 'the database cannot be used');
    }
  }
}
