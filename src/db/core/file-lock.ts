import Sqlite from 'better-sqlite3';
import type { ReleaseLock } from './dialect.ts';

/**
 * Takes the lock that a file stands for, among all processes of this host; null when another holds it. It goes with
 * the process, however that ends.
 * @throws the driver's error
 */
export function takeFileLock(path: string): ReleaseLock | null {
  const file = openLockFile(path);
  try {
    file.exec('BEGIN EXCLUSIVE');
  } catch (error) {
    file.close();
    if (isBusy(error)) return null;
    throw error;
  }
  return async () => {
    file.close();
  };
}

/** A file that exists only to be locked by one process; the operating system releases the lock when that process dies. */
export function openLockFile(path: string): Sqlite.Database {
  return new Sqlite(path, { timeout: 0 });
}

/** Another process has the lock. */
export function isBusy(error: unknown): boolean {
  return error instanceof Sqlite.SqliteError && error.code.startsWith('SQLITE_BUSY');
}
