/** What the drivers throw → what the rest of the program understands, and which of it is worth another try. */
import type { Knex } from 'knex';
import { AppError, errorCode } from '../../domain/errors.ts';
import { pause } from '../../util/timers.ts';
import { classifyCode, type ErrorClass } from './error-classes.ts';

const RETRY_AFTER_SECONDS = 2;
const TRANSIENT_RETRIES = 3;

/** Errors that carry no code: of the driver after a connection ended, and of the pool. */
const LOST = /add new command when connection is in closed state/;
const NO_CONNECTION = /Unable to acquire a connection|^aborted$|operation timed out/;

/** So many wait for a connection already that one more would only make everybody's wait longer. */
export class QueueFullError extends Error {
  constructor() {
    super('too many wait for a connection');
    this.name = 'QueueFullError';
  }
}

/** What kind of fault of the database an error is; undefined when it lies in the statement or its data. */
export function classifyError(error: unknown): ErrorClass | undefined {
  if (!(error instanceof Error)) return undefined;
  const known = classifyCode(errorCode(error) ?? '');
  if (known) return known;
  if (error instanceof QueueFullError) return 'unavailable';
  if (LOST.test(error.message)) return 'lost';
  if (error.name === 'KnexTimeoutError' || NO_CONNECTION.test(error.message)) return 'unavailable';
  return 'fatal' in error && error.fatal === true ? 'unavailable' : undefined;
}

/** The code of an error that no waiting mends (password, rights, name, a file that is no database); else undefined. */
export function accessDeniedCode(error: unknown): string | undefined {
  const code = errorCode(error);
  return classifyError(error) === 'refused' || code === 'SQLITE_NOTADB' ? code : undefined;
}

/** A deadlock, a lock that was not had in time, a busy file: the same transaction may well work now. */
export function isTransient(error: unknown): boolean {
  return classifyError(error) === 'transient';
}

/** The database is down, out of reach or too busy: waiting may help. */
export function isDatabaseDown(error: unknown): boolean {
  const fault = classifyError(error);
  return fault !== undefined && fault !== 'refused';
}

export function databaseUnavailable(cause: unknown, detail = 'The database does not answer'): AppError {
  return new AppError('database_unavailable', detail, { cause, retryAfter: RETRY_AFTER_SECONDS });
}

/** `database_unavailable` for every fault of the database itself; any other error as it is. */
export function toAppError(error: unknown): unknown {
  return classifyError(error) ? databaseUnavailable(error) : error;
}

/**
 * Runs what may be run twice: a read, or a write that changes nothing when repeated. Once more when the connection
 * broke under it, so that a pooled connection which died unnoticed fails nobody.
 * @throws AppError `database_unavailable`
 */
export async function withReconnect<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (classifyError(error) !== 'lost') throw toAppError(error);
  }
  return work().catch((error: unknown) => {
    throw toAppError(error);
  });
}

/** A transaction by Knex, run again as {@link withDeadlockRetry} says. */
export function transaction<T>(knex: Knex, work: (trx: Knex.Transaction) => Promise<T>): Promise<T> {
  return withDeadlockRetry(() => knex.transaction(work));
}

/**
 * A transaction, run again as a whole at most three times while its fault is transient. After any other fault it is
 * unknown to the caller whether it was committed: see {@link withReconnect}.
 * @throws the driver's error
 */
export async function withDeadlockRetry<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === TRANSIENT_RETRIES || !isTransient(error)) throw error;
      // Long enough for the other transaction to end, and of different length for two that met.
      await pause((attempt + Math.random()) * 10);
    }
  }
}
