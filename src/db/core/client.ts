import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import openKnex, { type Knex } from 'knex';
import type { Connection } from 'mysql2';
import type { Logger } from 'pino';
import { QueueFullError } from './errors.ts';
import { migrationSettings } from './migrations.ts';
import { parseMysqlUrl } from './mysql-url.ts';

export interface DatabaseOptions {
  readonly target:
    | { readonly kind: 'sqlite'; readonly file: string }
    | { readonly kind: 'mysql'; readonly url: string };
  readonly poolMin: number;
  readonly poolMax: number;
  /** MySQL only: how many may wait for a connection; whoever comes then fails at once. Default: 100 × poolMax. */
  readonly queueMax?: number;
  /** How long a caller waits for a free connection; also the longest that making one may take. */
  readonly acquireTimeoutMs: number;
  /** The longest that any statement may take, BEGIN and COMMIT too; 0: no bound, as migrations need it. */
  readonly queryTimeoutMs: number;
  /** Whether {@link Dialect.batch} is for use: MySQL must then take several statements at once. */
  readonly batches?: boolean;
}

/**
 * A Knex instance for the database; nothing is connected yet.
 * @throws Error with one readable line when the URL is not one
 */
export function createKnex(options: DatabaseOptions, logger?: Logger): Knex {
  const knex = openKnex(knexConfig(options, logger));
  // Without a server there is nothing to wait for but this process itself, and the writer shares the one connection.
  if (options.target.kind === 'mysql') {
    limitPoolQueue(knex, options.queueMax ?? QUEUE_PER_CONNECTION * options.poolMax);
  }
  return knex;
}

/** A burst of readers that the pool works off within the time that each may wait. */
const QUEUE_PER_CONNECTION = 100;

/**
 * The pool itself lets any number wait. When the server is frozen each of them would hold its request, and all that
 * belongs to it, for the whole acquire timeout only to fail then.
 */
function limitPoolQueue({ client }: Knex, most: number): void {
  const acquire: () => Promise<unknown> = client.acquireConnection.bind(client);
  client.acquireConnection = () =>
    // A destroyed client has no pool any more.
    client.pool?.numPendingAcquires() >= most ? Promise.reject(new QueueFullError()) : acquire();
}

/** What the database is called in logs: never with user or password. */
export function describeTarget({ target }: Pick<DatabaseOptions, 'target'>): string {
  if (target.kind === 'sqlite') return `SQLite ${target.file}`;
  const { host, port, database } = parseMysqlUrl(target.url);
  return `MySQL ${host.includes(':') ? `[${host}]` : host}:${port}/${database}`;
}

/** The settings for Knex itself, its command line included. */
export function knexConfig(options: DatabaseOptions, logger?: Logger): Knex.Config {
  const { target } = options;
  return {
    ...(target.kind === 'sqlite' ? sqliteConfig(target.file) : mysqlConfig(target.url, options)),
    acquireConnectionTimeout: options.acquireTimeoutMs,
    // Otherwise every error's message is the statement with all its data in it.
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

/** Knex logs a driver's error as text with its stack: what the database said in words is nothing for a log. */
function plainLine(message: unknown): string {
  return String(message).split(/: |\n/, 1).join();
}

type AfterCreate<C> = (connection: C, done: (error: Error | null, connection: C) => void) => void;

interface SqliteConnection {
  pragma(source: string): unknown;
}

function sqliteConfig(file: string): Knex.Config {
  mkdirSync(dirname(file), { recursive: true });
  const afterCreate: AfterCreate<SqliteConnection> = (connection, done) => {
    // The wait first: changing the journal mode needs the file for itself.
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
    // The writer's only: its SQL is all ours, and the driver escapes every value.
    multipleStatements: options.batches ?? false,
  };
  return {
    client: 'mysql2',
    // Knex would ask every server for its version to adapt its query builder; nothing here depends on it.
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

/** Longer than any lock is held here, and short enough that a batch of writes is not held up for long. */
const LOCK_WAIT_SECONDS = 2;

/**
 * What a session needs whatever the server's defaults are: UTC, faults instead of silent cutting, backslash as the
 * escape character (the driver relies on it), and no gap locks, which would make unrelated inserts wait.
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
          // Knex drops a connection that it could not finish without closing it.
          connection.destroy();
          left = -1;
          done(error, connection);
        } else if (left === 0) done(null, connection);
      });
    }
  };
}

/**
 * Bounds every statement of the connection in time. Knex's own `.timeout()` reaches neither BEGIN nor COMMIT, and a
 * server that is frozen right there would hold the transaction for ever. A connection that timed out is of no use
 * any more (the answer may still come) and is destroyed; the pool then sees that and makes another.
 * The driver's errors carry the statement with its data; that must not get into a log.
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
