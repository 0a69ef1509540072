import { join } from 'node:path';
import type { Logger } from 'pino';
import type { Database } from './database.ts';
import { claimFolder } from './journal/folder-owner.ts';
import { Journal } from './journal/journal.ts';
import { DurableWriter } from './turns/durable-writer.ts';
import { ProcessLock } from './workers/process-lock.ts';
import { WorkerRegistry } from './workers/registry.ts';

export interface DurabilityOptions {
  /** Folder of the journal and of the lock files; shared by the processes of one host. */
  readonly folder: string;
  /** The id of this process. */
  readonly worker: string;
  readonly leaseMs: number;
  readonly journalMaxBytes: number;
}

export interface Durability {
  readonly writer: DurableWriter;
  /** How many processes use the database, this one included. */
  processes(): number;
  /** Whether the database takes writes; see {@link WorkerRegistry.isWritable}. Never rejects. */
  isWritable(): Promise<boolean>;
  /** Whether the database answers writes and heartbeats, as far as is known. */
  isDatabaseUp(): boolean;
  /** Whether a worker of this host lives. Undefined where the folder cannot hold lock files. */
  readonly isAlive: ((worker: string) => boolean) | undefined;
  /** Starts heartbeats and reaping. Never rejects. */
  start(): Promise<void>;
  close(): Promise<void>;
}

/**
 * The writer with its journal, and the registry of workers: turns survive outages of the database and crashes.
 * @throws the driver's error when the journal cannot be opened, or stays locked by another program; ForeignFolderError
 */
export async function openDurability(
  database: Database,
  options: DurabilityOptions,
  logger: Logger,
): Promise<Durability> {
  const { folder, worker, leaseMs, journalMaxBytes } = options;
  const workers = join(folder, 'workers');
  const journal = await Journal.open(join(folder, 'journal.sqlite'), journalMaxBytes);
  try {
    claimFolder(folder, database.describe(), () => !journal.isEmpty() || ProcessLock.anyAlive(workers));
  } catch (error) {
    await journal.close();
    throw error;
  }
  const writer = new DurableWriter(database.writer, journal, logger, {
    probe: () => database.conversations.check(),
  });
  const processLock = ProcessLock.acquire(workers, worker, logger);
  const registry = new WorkerRegistry(
    database.writerKnex,
    { id: worker, leaseMs, ...(processLock && { processLock }) },
    logger,
  );
  return {
    writer,
    processes: () => registry.alive,
    isWritable: () => registry.isWritable(),
    isDatabaseUp: () => writer.isDatabaseUp && registry.wasWritable,
    isAlive: processLock && ((id) => processLock.isAlive(id)),
    start: () => registry.start(),
    async close() {
      await writer.close();
      await registry.stop();
    },
  };
}
