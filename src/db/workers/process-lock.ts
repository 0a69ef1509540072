import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import SqliteFile, { type Database } from 'better-sqlite3';
import type { Logger } from 'pino';

const LOCK_FILE = /^([\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12})\.lock$/;
/** Files that SQLite may leave beside a database. */
const COMPANIONS = ['', '-journal', '-wal', '-shm'];
/** What a file holds as soon as its process has had the lock: before that a free lock says nothing. */
const TAKEN = 1;

/**
 * Tells the processes of one host which of them have died, at once and for certain: each holds a lock of the operating
 * system, by way of SQLite, which has one for every system. It goes with its process, however that ends. The files
 * must be opened by nothing else here: on POSIX the first one to close such a file gives the process's locks away.
 */
export class ProcessLock {
  readonly #folder: string;
  readonly #id: string;
  readonly #lock: Database;

  private constructor(folder: string, id: string, lock: Database) {
    this.#folder = folder;
    this.#id = id;
    this.#lock = lock;
  }

  /**
   * Takes the lock `<folder>/<id>.lock`. Must come before anything is written to the database under this id.
   * @param id a lower-case UUID that no other process has or had
   * @returns undefined, and a warning in the log, when the folder cannot be written
   */
  static acquire(folder: string, id: string, logger: Logger): ProcessLock | undefined {
    let lock: Database | undefined;
    try {
      mkdirSync(folder, { recursive: true });
      lock = new SqliteFile(join(folder, `${id}.lock`), { timeout: 1000 });
      hold(lock);
      return new ProcessLock(folder, id, lock);
    } catch (error) {
      lock?.close();
      logger.warn(
        { err: error, folder },
        'no lock file could be made: should this process be killed, its replies are closed later',
      );
      return undefined;
    }
  }

  /** The ids whose process has ended without {@link release}. Empty when the folder cannot be read. */
  listDead(): string[] {
    return listed(this.#folder).filter((id) => id !== this.#id && isAbandoned(this.#file(id)));
  }

  /** Removes the files of a process that is dead. */
  remove(id: string): void {
    if (id !== this.#id) this.#remove(id);
  }

  /** Gives the lock up; nothing of this process may be open any more. */
  release(): void {
    // Windows removes no open file.
    this.#lock.close();
    this.#remove(this.#id);
  }

  #file(id: string): string {
    return join(this.#folder, `${id}.lock`);
  }

  #remove(id: string): void {
    for (const companion of COMPANIONS) {
      try {
        rmSync(this.#file(id) + companion, { force: true });
      } catch {
        // One that another process looks at this moment stays, and is found to be dead by the next one that starts.
      }
    }
  }
}

/** Locks the file for as long as it is open, and says in it that this was done. */
function hold(file: Database): void {
  file.pragma('journal_mode = MEMORY');
  file.pragma('synchronous = OFF');
  // Keeps the lock from one transaction to the next.
  file.pragma('locking_mode = EXCLUSIVE');
  file.exec('BEGIN EXCLUSIVE');
  file.pragma(`user_version = ${TAKEN}`);
  file.exec('COMMIT');
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder).flatMap((name) => LOCK_FILE.exec(name)?.[1] ?? []);
  } catch {
    return [];
  }
}

function isAbandoned(path: string): boolean {
  let file: Database | undefined;
  try {
    file = new SqliteFile(path, { fileMustExist: true, timeout: 0 });
    file.exec('BEGIN EXCLUSIVE');
    return file.pragma('user_version', { simple: true }) === TAKEN;
  } catch {
    // Locked, gone, or none of ours: nobody is known to be dead.
    return false;
  } finally {
    file?.close();
  }
}
