import type { Config } from '../config/config.ts';
import { accessDeniedCode, isDatabaseDown, isFileError, isFileLocked } from '../db/core/errors.ts';
import { type Database, openDatabase } from '../db/database.ts';
import { type Durability, openDurability } from '../db/durability.ts';
import { PendingMigrationsError, prepareSchema } from '../db/prepare-schema.ts';
import { errorCode } from '../domain/errors.ts';
import type { Logger } from '../logger.ts';
import { StartError } from '../startup/start-error.ts';
import { makeFolder } from '../util/folders.ts';
import { unlessAborted } from '../util/timers.ts';

export interface Storage extends Pick<Durability, 'writer' | 'processes' | 'isWritable'> {
  readonly database: Database;
}

/**
 * Opens the database and prepares its schema, in the background while the database is down.
 * @param opened gets what closes it, also when this fails
 * @throws StartError; the signal's reason
 */
export async function openStorage(
  config: Config,
  worker: string,
  log: Logger,
  opened: AsyncDisposableStack,
  signal: AbortSignal,
): Promise<Storage> {
  const { leaseMs, journalMaxBytes } = config.durability;
  const folder = config.dataDir;
  const unusable = `DATA_DIR ${folder} cannot be used`;
  await oneLine(unusable, () => makeFolder(folder));
  const database = await oneLine('the database cannot be opened', () => openDatabase(config.database, log));
  opened.defer(() => database.close());
  const options = { folder, worker, leaseMs, journalMaxBytes };
  const { writer, processes, isWritable, start, close } = await unlessAborted(
    signal,
    oneLine(unusable, () => openDurability(database, options, log)),
  );
  opened.defer(close);
  const quit = new AbortController();
  const { autoMigrate } = config.database;
  try {
    const prepare = { autoMigrate, signal: AbortSignal.any([quit.signal, signal]) };
    const schema = await prepareSchema(database, prepare, log);
    opened.defer(async () => {
      quit.abort();
      await schema.done;
    });
    await unlessAborted(signal, start());
  } catch (error) {
    throw toStartError(error);
  }
  return { database, writer, processes, isWritable };
}

const JOURNAL_LOCKED = 'its journal.sqlite is locked by another program';

/** @throws StartError */
async function oneLine<T>(failure: string, open: () => T | Promise<T>): Promise<T> {
  try {
    return await open();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StartError(`${failure}: ${isFileLocked(error) ? JOURNAL_LOCKED : reason}`, error);
  }
}

/** Access errors and locks become one line; other errors pass unchanged. */
function toStartError(error: unknown): unknown {
  if (error instanceof PendingMigrationsError) return new StartError(error.message, error);
  if (isFileLocked(error)) return new StartError('the database file is locked by another program', error);
  const code = accessDeniedCode(error);
  if (code !== undefined) return new StartError(`the database denies access (${code})`, error);
  const isUnusable = isFileError(error) && isDatabaseDown(error);
  return isUnusable ? new StartError(`the database file cannot be used (${errorCode(error)})`, error) : error;
}
