import type { Config } from '../config/config.ts';
import { isFileLocked } from '../db/core/errors.ts';
import { type Database, openDatabase } from '../db/database.ts';
import { type Durability, openDurability } from '../db/durability.ts';
import { prepareSchema } from '../db/prepare-schema.ts';
import type { WriterMetrics } from '../db/turns/turn-writer.ts';
import type { Logger } from '../logger.ts';
import { toStartError } from '../startup/database-error.ts';
import { StartError } from '../startup/start-error.ts';
import { makeFolder } from '../util/folders.ts';
import { unlessAborted } from '../util/timers.ts';

export interface Storage
  extends Pick<Durability, 'writer' | 'processes' | 'isDatabaseUp' | 'isAlive' | 'isWritable'> {
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
  metrics: WriterMetrics,
  log: Logger,
  opened: AsyncDisposableStack,
  signal: AbortSignal,
): Promise<Storage> {
  const { leaseMs, journalMaxBytes } = config.durability;
  const folder = config.dataDir;
  const unusable = `DATA_DIR ${folder} cannot be used`;
  await oneLine(unusable, () => makeFolder(folder));
  const database = await oneLine('the database cannot be opened', () =>
    openDatabase(config.database, log, metrics),
  );
  opened.defer(() => database.close());
  const options = { folder, worker, leaseMs, journalMaxBytes };
  const { start, close, ...durability } = await unlessAborted(
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
  return { database, ...durability };
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
