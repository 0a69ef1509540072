/** Classifies the errors of the drivers, translates them to AppErrors, and retries. */
import type { Knex } from 'knex';
import { AppError, errorCode } from '../../domain/errors.ts';
import { pause } from '../../util/timers.ts';
import { dialectOf } from './dialect.ts';
import { classifyCode, type ErrorClass, needsNewConnection } from './error-classes.ts';

const RETRY_AFTER_SECONDS = 2;
const TRANSIENT_RETRIES = 3;
/** How long statements wait for the lock of SQLite's file, and the longest interval between two tries. */
const FILE_LOCK_WAIT_MS = 12_000;
const FILE_LOCK_POLL_MS = 25;

/** Errors that carry no code: of the driver after a connection ended, and of the pool. */
const LOST = /add new command when connection is in closed state/;
const NO_CONNECTION = /Unable to acquire a connection|^aborted$|operation timed out/;

/** The queue for a connection has reached its limit. */
export class QueueFullError extends Error {
  constructor() {
    super('too many requests wait for a connection');
    this.name = 'QueueFullError';
  }
}

/** Undefined when the statement or its data caused the error. */
export function classifyError(error: unknown): ErrorClass | undefined {
  if (!(error instanceof Error)) return undefined;
  const known = classifyCode(errorCode(error) ?? '');
  if (known) return known;
  if (error instanceof QueueFullError) return 'unavailable';
  if (LOST.test(error.message)) return 'lost';
  if (error.name === 'KnexTimeoutError' || NO_CONNECTION.test(error.message)) return 'unavailable';
  return 'fatal' in error && error.fatal === true ? 'unavailable' : undefined;
}

/** The code of an error that a retry cannot fix (password, rights, name, a file that is no database); else undefined. */
export function accessDeniedCode(error: unknown): string | undefined {
  const code = errorCode(error);
  return classifyError(error) === 'refused' || code === 'SQLITE_NOTADB' ? code : undefined;
}

/** The database is down, unreachable, locked or too busy, so that a retry can help. Takes errors of the drivers. */
export function isDatabaseDown(error: unknown): boolean {
  const kind = classifyError(error);
  return kind !== undefined && kind !== 'refused';
}

export function databaseUnavailable(cause: unknown, detail = 'The database does not answer'): AppError {
  return new AppError('database_unavailable', detail, { cause, retryAfter: RETRY_AFTER_SECONDS });
}

/** A lock, or a statement that took too long, while the database serves others. */
export function databaseBusy(cause: unknown): AppError {
  const detail = 'The database was too busy for this request; try again in a moment';
  return new AppError('database_busy', detail, { cause, retryAfter: RETRY_AFTER_SECONDS });
}

/** `database_busy` or `database_unavailable` for every error of the database itself; other errors unchanged. */
export function toAppError(error: unknown): unknown {
  const kind = classifyError(error);
  if (kind === undefined) return error;
  return kind === 'transient' || kind === 'locked' || kind === 'slow'
    ? databaseBusy(error)
    : databaseUnavailable(error);
}

/** @throws AppError `database_unavailable` or `database_busy` where the work throws an error of the database */
export function asAppErrors<T>(work: () => Promise<T>): Promise<T> {
  return work().catch((error: unknown) => {
    throw toAppError(error);
  });
}

/**
 * Runs idempotent work a second time when its connection broke or leads to a server that rejects writes, so that an old
 * connection of the pool fails no request.
 * @throws AppError `database_unavailable`, `database_busy`
 */
export async function withReconnect<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (classifyError(error) !== 'lost' && !needsNewConnection(errorCode(error))) throw toAppError(error);
  }
  return asAppErrors(work);
}

/** The rows of a SELECT, by {@link withReconnect}. Plain SQL, without the cost of Knex's builder. */
export function select<Row>(knex: Knex, sql: string, bindings: readonly (string | number)[]): Promise<Row[]> {
  return withReconnect(() => dialectOf(knex).select<Row>(knex, sql, bindings));
}

/** A transaction of Knex with {@link withDeadlockRetry}. */
export function transaction<T>(knex: Knex, work: (trx: Knex.Transaction) => Promise<T>): Promise<T> {
  return withDeadlockRetry(() => knex.transaction(work));
}

/**
 * Repeats a transaction after a deadlock, at most three times, and while another program holds the lock of SQLite's
 * file. After any other error the caller does not know whether it was committed: see {@link withReconnect}.
 * @throws the driver's error
 */
export async function withDeadlockRetry<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await withFileLockRetry(work);
    } catch (error) {
      if (attempt === TRANSIENT_RETRIES || classifyError(error) !== 'transient') throw error;
      // Long enough for the other transaction to end, and of different length for two that met.
      await pause((attempt + Math.random()) * 10);
    }
  }
}

/**
 * Repeats work while another program holds the lock of SQLite's file. SQLite's own busy timeout would block the event
 * loop, and waiting inside a transaction would hold the one connection.
 * @throws the driver's error
 */
export async function withFileLockRetry<T>(work: () => Promise<T>, waitMs = FILE_LOCK_WAIT_MS): Promise<T> {
  let deadline: number | undefined;
  for (let wait = 1; ; wait = Math.min(2 * wait, FILE_LOCK_POLL_MS)) {
    try {
      return await work();
    } catch (error) {
      if (!isFileLocked(error)) throw error;
      deadline ??= performance.now() + waitMs;
      if (performance.now() > deadline) throw error;
      await pause(wait * (0.5 + Math.random()));
    }
  }
}

/** Another program holds the lock of SQLite's file. */
export function isFileLocked(error: unknown): boolean {
  return classifyError(error) === 'locked' && isFileError(error);
}

/** SQLite cannot use its file: unlike a server, it does not come back by itself. */
export function isFileError(error: unknown): boolean {
  return errorCode(error)?.startsWith('SQLITE_') === true;
}
