/** The SQLite files of a backup: copied in one transaction, checked, counted. */
import { createHash } from 'node:crypto';
import { chmodSync, createReadStream, statSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import Sqlite from 'better-sqlite3';
import { syncToDisk } from '../util/sync-to-disk.ts';

/** A file of a backup cannot be used. */
export class DamagedFileError extends Error {}

/** How long a copy waits for another program's lock. */
const LOCK_TIMEOUT_MS = 30_000;

/** Tables whose rows are counted, by file. */
const COUNTED = {
  'chat.sqlite': ['conversations', 'messages', 'api_keys'],
  'journal.sqlite': ['entries', 'rejected'],
} as const;

export type BackupName = keyof typeof COUNTED;
export type RowCounts = Readonly<Record<string, number>>;

export interface CopiedFile {
  readonly name: BackupName;
  readonly bytes: number;
  readonly sha256: string;
  readonly rows: RowCounts;
}

/**
 * Copies a database to a new file, also while it is used: readers and writers do not wait for it.
 * @throws the driver's error, such as SQLITE_FULL
 */
export function copyDatabase(source: string, target: string): void {
  const database = new Sqlite(source, { fileMustExist: true, timeout: LOCK_TIMEOUT_MS });
  try {
    database.prepare('VACUUM INTO ?').run(target);
  } finally {
    database.close();
  }
  // It holds the conversations: not for other users, whatever the umask is.
  chmodSync(target, 0o600);
  syncToDisk(target);
}

/** @throws DamagedFileError when SQLite finds the file damaged */
export async function describeFile(path: string, name: BackupName): Promise<CopiedFile> {
  const rows = checkDatabase(path, name);
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return { name, bytes: statSync(path).size, sha256: hash.digest('hex'), rows };
}

function checkDatabase(path: string, name: BackupName): RowCounts {
  let database: Sqlite.Database | undefined;
  try {
    database = new Sqlite(path, { readonly: true, fileMustExist: true });
    const result = database.pragma('integrity_check(1)', { simple: true });
    if (result !== 'ok') throw new DamagedFileError(`${path} is damaged: ${String(result)}`);
    return countRows(database, COUNTED[name]);
  } catch (error) {
    if (error instanceof Sqlite.SqliteError)
      throw new DamagedFileError(`${path} is damaged: ${error.message}`);
    throw error;
  } finally {
    database?.close();
  }
}

function countRows(database: Sqlite.Database, tables: readonly string[]): RowCounts {
  const exists = database.prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?");
  const present = tables.filter((table) => exists.get(table) !== undefined);
  const count = (table: string) => Number(database.prepare(`SELECT count(*) FROM ${table}`).pluck().get());
  return Object.fromEntries(present.map((table) => [table, count(table)]));
}

/** Names of the migrations that the file has. Empty for a file that is not a database of this program. */
export function appliedMigrations(path: string): string[] {
  const database = new Sqlite(path, { readonly: true, fileMustExist: true });
  try {
    const [table] = database.prepare("SELECT 1 FROM sqlite_master WHERE name = 'knex_migrations'").all();
    if (table === undefined) return [];
    return database.prepare<[], string>('SELECT name FROM knex_migrations').pluck().all();
  } finally {
    database.close();
  }
}

/** `chat.sqlite: 20 conversations, 40 messages, 1 api_keys, 0.3 MB` */
export function sentence({ name, bytes, rows }: CopiedFile): string {
  const counts = Object.entries(rows).map(([table, count]) => `${count} ${table}`);
  return `${name}: ${[...counts, `${(bytes / 1024 ** 2).toFixed(1)} MB`].join(', ')}`;
}
