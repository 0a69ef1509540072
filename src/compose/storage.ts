import type { Config } from '../config/config.ts';
import { accessDeniedCode } from '../db/core/errors.ts';
import { type Database, openDatabase } from '../db/database.ts';
import { type Durability, openDurability } from '../db/durability.ts';
import { PendingMigrationsError, prepareSchema } from '../db/prepare-schema.ts';
import type { Logger } from '../logger.ts';
import { StartError } from '../startup/start-error.ts';

export interface Storage extends Pick<Durability, 'writer' | 'processes'> {
  readonly database: Database;
  close(): Promise<void>;
}

/**
 * Opens the database and prepares its schema, in the background while the database is down.
 * @throws StartError
 */
export async function openStorage(config: Config, worker: string, log: Logger): Promise<Storage> {
  const { database, durability } = openStore(config, worker, log);
  const quit = new AbortController();
  const { autoMigrate } = config.database;
  try {
    const schema = await prepareSchema(database, { autoMigrate, signal: quit.signal }, log);
    await durability.start();
    const close = async () => {
      quit.abort();
      await schema.done;
      await durability.close();
      await database.close();
    };
    return { database, writer: durability.writer, processes: durability.processes, close };
  } catch (error) {
    await durability.close();
    await database.close();
    throw toStartError(error);
  }
}

function openStore(
  config: Config,
  worker: string,
  log: Logger,
): { database: Database; durability: Durability } {
  const { leaseMs, journalMaxBytes } = config.durability;
  try {
    const database = openDatabase(config.database, log);
    const options = { folder: config.dataDir, worker, leaseMs, journalMaxBytes };
    return { database, durability: openDurability(database, options, log) };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StartError(`the database cannot be opened: ${reason}`, error);
  }
}

/** Access errors become one line; other errors pass unchanged. */
function toStartError(error: unknown): unknown {
  if (error instanceof PendingMigrationsError) return new StartError(error.message, error);
  const code = accessDeniedCode(error);
  return code === undefined ? error : new StartError(`the database denies access (${code})`, error);
}
