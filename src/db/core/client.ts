import { dirname } from 'node:path';
import openKnex, { type Knex } from 'knex';
import type { Connection } from 'mysql2';
import type { Logger } from 'pino';
import { makeFolder } from '../../util/folders.ts';
import { QueueFullError } from './errors.ts';
import { migrationSettings } from './migrations.ts';
import { parseMysqlUrl } from './mysql-url.ts';

export interface DatabaseOptions {
  readonly target:
    | { readonly kind: 'sqlite'; readonly file: string }
    | { readonly kind: 'mysql'; readonly url: string };
  readonly poolMin: number;
  readonly poolMax: number;
  /** MySQL only: how many requests may wait for a connection; more fail immediately. Default: 100 × poolMax. */
  readonly queueMax?: number;
  /** Maximum wait for a free connection, and for opening one. */
  readonly acquireTimeoutMs: number;
  /** Timeout of every statement, BEGIN and COMMIT included; 0: none, for migrations. */
  readonly queryTimeoutMs: number;
  /** For {@link Dialect.batch}: allows several statements in one packet on MySQL. */
  readonly batches?: boolean;
}

/**
 * Does not connect yet.
 * @throws Error with one readable line when the URL is not one
 */
export function createKnex(options: DatabaseOptions, logger?: Logger): Knex {
  const knex = openKnex(knexConfig(options, logger));
  // SQLite has no server that could freeze, and the writer shares its one connection.
  if (options.target.kind === 'mysql') {
    limitPoolQueue(knex, options.queueMax ?? QUEUE_PER_CONNECTION * options.poolMax);
  }
  return knex;
}

/** The pool can serve a burst of this size within the acquire timeout. */
const QUEUE_PER_CONNECTION = 100;

/** The queue of the pool is unlimited: with a frozen server every request would stay for the whole acquire timeout. */
function limitPoolQueue({ client }: Knex, most: number): void {
  const acquire: () => Promise<unknown> = client.acquireConnection.bind(client);
  client.acquireConnection = () =>
    // A destroyed client has no pool any more.
    client.pool?.numPendingAcquires() >= most ? Promise.reject(new QueueFullError()) : acquire();
}

/** The name of the database in logs, without user and password. */
export function describeTarget({ target }: Pick<DatabaseOptions, 'target'>): string {
  if (target.kind === 'sqlite') return `SQLite ${target.file}`;
  const { host, port, database } = parseMysqlUrl(target.url);
  return `MySQL ${host.includes(':') ? `[${host}]` : host}:${port}/${database}`;
}

export function knexConfig(options: DatabaseOptions, logger?: Logger): Knex.Config {
  const { target } = options;
  return {
    ...(target.kind === 'sqlite' ? sqliteConfig(target.file) : mysqlConfig(target.url, options)),
    acquireConnectionTimeout: options.acquireTimeoutMs,
    // Otherwise the message of every error contains the statement with its data.
    compileSqlOnError: false,
    migrations: migrationSettings(),
    log: {
      warn: (message: unknown) => logger?.warn({ component: 'knex' }, plainLine(message)),
      error: (message: unknown) => logger?.error({ component: 'knex' }, plainLine(message)),
      deprecate: (method: string, instead: string) => logger?.warn({ method, instead }, 'deprecated in knex'),
      debug: (message: unknown) => logger?.debug({ component: 'knex' }, String(message)),
    },
  };
}

/** Knex logs errors of the driver as text with stack. Their message can quote data, so only its start is logged. */
function plainLine(message: unknown): string {
  return String(message).split(/: |\n/, 1).join();
}

type AfterCreate<C> = (connection: C, done: (error: Error | null, connection: C) => void) => void;

interface SqliteConnection {
  pragma(source: string): unknown;
}

function sqliteConfig(file: string): Knex.Config {
  makeFolder(dirname(file));
  const afterCreate: AfterCreate<SqliteConnection> = (connection, done) => {
    // The timeout first: changing the journal mode needs exclusive access.
    connection.pragma('busy_timeout = 5000');
    connection.pragma('journal_mode = WAL');
    connection.pragma('synchronous = NORMAL');
    connection.pragma('foreign_keys = ON');
    done(null, connection);
  };
  return {
    client: 'better-sqlite3',
    connection: { filename: file },
    useNullAsDefault: true,
    pool: { min: 1, max: 1, afterCreate },
  };
}

function mysqlConfig(url: string, options: DatabaseOptions): Knex.Config {
  const connection = {
    ...parseMysqlUrl(url),
    charset: 'utf8mb4',
    timezone: 'Z',
    dateStrings: true,
    supportBigNumbers: true,
    enableKeepAlive: true,
    keepAliveInitialDelay: 10_000,
    connectTimeout: options.acquireTimeoutMs,
    // Only for the writer, whose SQL is constant; the driver escapes every value.
    multipleStatements: options.batches ?? false,
  };
  return {
    client: 'mysql2',
    // Spares a query for the version of the server, which Knex would use to adapt its builder.
    version: 'latest',
    connection,
    pool: {
      min: options.poolMin,
      max: options.poolMax,
      createTimeoutMillis: options.acquireTimeoutMs,
      afterCreate: prepareMysql(options.queryTimeoutMs),
    },
  };
}

/** Longer than any lock is held, and short enough for the batches of writes behind it. */
const LOCK_WAIT_SECONDS = 2;

/**
 * Settings that do not depend on the server's defaults: UTC, errors instead of truncation, backslash as the escape
 * character (the driver needs it), and no gap locks, which would block unrelated inserts.
 */
const SESSION = [
  'SET NAMES utf8mb4',
  `SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = ${LOCK_WAIT_SECONDS}, sql_mode = '${[
    'STRICT_TRANS_TABLES',
    'NO_ZERO_IN_DATE',
    'NO_ZERO_DATE',
    'ERROR_FOR_DIVISION_BY_ZERO',
    'NO_ENGINE_SUBSTITUTION',
  ].join(',')}'`,
  'SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED',
];

function prepareMysql(queryTimeoutMs: number): AfterCreate<Connection> {
  return (connection, done) => {
    withStatementTimeout(connection, queryTimeoutMs);
    let left = SESSION.length;
    for (const sql of SESSION) {
      connection.query(sql, (error) => {
        left -= 1;
        if (error) {
          // Knex does not close a connection whose set-up failed.
          connection.destroy();
          left = -1;
          done(error, connection);
        } else if (left === 0) done(null, connection);
      });
    }
  };
}

/**
 * Knex's `.timeout()` does not cover BEGIN and COMMIT, so a frozen server would hold a transaction for ever. After a
 * timeout the connection is destroyed, because its response may still arrive; the pool opens another one. The driver's
 * errors carry the statement with its data, which must not be logged.
 */
function withStatementTimeout(
  connection: Connection & { __knex__disposed?: unknown },
  timeoutMs: number,
): void {
  const query: CallableFunction = connection.query.bind(connection);
  type Callback = (error: (Error & { code?: string; sql?: string }) | null, ...rest: unknown[]) => void;
  const checked =
    (callback: Callback): Callback =>
    (error, ...rest) => {
      if (error) delete error.sql;
      if (error?.code === 'PROTOCOL_SEQUENCE_TIMEOUT') {
        connection.__knex__disposed = error;
        connection.destroy();
      }
      callback(error, ...rest);
    };
  Object.assign(connection, {
    query(first: string | object, ...rest: unknown[]) {
      const options = typeof first === 'string' ? { sql: first } : first;
      const limited = timeoutMs > 0 ? { timeout: timeoutMs, ...options } : options;
      const last = rest.at(-1);
      if (typeof last === 'function') rest[rest.length - 1] = checked(last as Callback);
      return query(limited, ...rest);
    },
  });
}
