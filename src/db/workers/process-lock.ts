import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import SqliteFile, { type Database } from 'better-sqlite3';
import type { Logger } from 'pino';
import { makeFolder } from '../../util/folders.ts';
import { isBusy } from '../core/file-lock.ts';

const LOCK_FILE = /^([\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12})\.lock$/;
/** Suffixes of a database and of the files that SQLite creates beside it. */
export const COMPANIONS = ['', '-journal', '-wal', '-shm'];
/** `user_version` of a file once its process has had the lock. Before that a free lock proves nothing. */
const TAKEN = 1;

/**
 * Finds dead processes of one host immediately and reliably: each holds a lock of the operating system, by way of
 * SQLite, which has one for every system. The system releases the lock when the process dies. Nothing else in this
 * process may open the files: on POSIX closing any handle of a file releases the locks of the process on it.
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
   * Takes the lock `<folder>/<id>.lock`. Call it before anything is written to the database under this id.
   * @param id a lower-case UUID that is never used again
   * @returns undefined, and a warning in the log, when the folder cannot be written
   */
  static acquire(folder: string, id: string, logger: Logger): ProcessLock | undefined {
    let lock: Database | undefined;
    try {
      makeFolder(folder);
      lock = new SqliteFile(join(folder, `${id}.lock`), { timeout: 1000 });
      lockAndMark(lock);
      return new ProcessLock(folder, id, lock);
    } catch (error) {
      lock?.close();
      logger.warn({ err: error, folder }, 'lock file could not be created');
      return undefined;
    }
  }

  /** Whether a process holds a lock in the folder. */
  static anyAlive(folder: string): boolean {
    return workersIn(folder).some((id) => lockState(join(folder, `${id}.lock`)) !== 'abandoned');
  }

  /** The ids whose process has ended without {@link release}. Empty when the folder cannot be read. */
  listDead(): string[] {
    return workersIn(this.#folder).filter(
      (id) => id !== this.#id && lockState(this.#file(id)) === 'abandoned',
    );
  }

  /** False for processes that have ended, with or without {@link release}. */
  isAlive(id: string): boolean {
    return id === this.#id || (existsSync(this.#file(id)) && lockState(this.#file(id)) !== 'abandoned');
  }

  /** Removes the files of a process that is dead. */
  remove(id: string): void {
    if (id !== this.#id) this.#remove(id);
  }

  /** Releases the lock. This process must have no open reply. */
  release(): void {
    // Windows cannot remove an open file.
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
        // Another process has it open: the next process that starts finds it dead and removes it.
      }
    }
  }
}

/** Locks the file for as long as it is open, and marks it. */
function lockAndMark(file: Database): void {
  file.pragma('journal_mode = MEMORY');
  file.pragma('synchronous = OFF');
  // Keeps the lock between transactions.
  file.pragma('locking_mode = EXCLUSIVE');
  file.exec('BEGIN EXCLUSIVE');
  file.pragma(`user_version = ${TAKEN}`);
  file.exec('COMMIT');
}

/** The processes whose lock files are in the folder: `alive` hold their lock, `dead` have ended without {@link ProcessLock.release}. */
export function listWorkers(folder: string): { readonly alive: string[]; readonly dead: string[] } {
  const alive: string[] = [];
  const dead: string[] = [];
  for (const id of workersIn(folder)) {
    const state = lockState(join(folder, `${id}.lock`));
    if (state === 'held') alive.push(id);
    else if (state === 'abandoned') dead.push(id);
  }
  return { alive, dead };
}

function workersIn(folder: string): string[] {
  try {
    return readdirSync(folder).flatMap((name) => LOCK_FILE.exec(name)?.[1] ?? []);
  } catch {
    return [];
  }
}

/** `unknown`: it was removed, is not a lock file, or its process has only just created it. */
function lockState(path: string): 'held' | 'abandoned' | 'unknown' {
  let file: Database | undefined;
  try {
    file = new SqliteFile(path, { fileMustExist: true, timeout: 0 });
    file.exec('BEGIN EXCLUSIVE');
    return file.pragma('user_version', { simple: true }) === TAKEN ? 'abandoned' : 'unknown';
  } catch (error) {
    return isBusy(error) ? 'held' : 'unknown';
  } finally {
    file?.close();
  }
}
