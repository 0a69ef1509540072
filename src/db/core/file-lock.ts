import Sqlite from 'better-sqlite3';

/**
 * A lock among the processes of one host, by way of SQLite, which has one for every operating system. The system
 * releases it when its process dies.
 */
export class FileLock {
  readonly #file: Sqlite.Database;

  /** @throws the driver's error */
  constructor(path: string) {
    this.#file = new Sqlite(path, { timeout: 0 });
  }

  /** False when the lock is taken, by this process or another one. @throws the driver's error */
  tryAcquire(): boolean {
    if (this.#file.inTransaction) return false;
    try {
      this.#file.exec('BEGIN EXCLUSIVE');
      return true;
    } catch (error) {
      if (isBusy(error)) return false;
      throw error;
    }
  }

  release(): void {
    if (this.#file.open) this.#file.exec('ROLLBACK');
  }

  /** Releases the lock too. */
  close(): void {
    this.#file.close();
  }
}

/** Another process has the lock. */
export function isBusy(error: unknown): boolean {
  return error instanceof Sqlite.SqliteError && error.code.startsWith('SQLITE_BUSY');
}
