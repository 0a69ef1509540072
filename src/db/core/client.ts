import { dirname } from 'node:path';
import openKnex, { type Knex } from 'knex';
import type { Connection } from 'mysql2';
import type { Logger } from 'pino';
import { makeFolder } from '../../util/folders.ts';
import { QueueFullError, withFileLockRetry } from './errors.ts';
import { migrationSettings } from './migrations.ts';
import { parseMysqlUrl } from './mysql-url.ts';
import { StatementKiller, withStatementTimeout } from './statement-timeout.ts';

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
  } else waitForFileLock(knex);
  return knex;
}

/** Statements outside transactions; see {@link withDeadlockRetry} for transactions. */
function waitForFileLock({ client }: Knex): void {
  const runner: (builder: unknown) => { run(): Promise<unknown> } = client.runner.bind(client);
  client.runner = (builder: unknown) => {
    const one = runner(builder);
    const run = one.run.bind(one);
    one.run = () => withFileLockRetry(run);
    return one;
  };
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
  close(): unknown;
}

/** A busy timeout would block the event loop: see {@link withFileLockRetry}. */
const SQLITE_SETTINGS = [
  'busy_timeout = 0',
  'journal_mode = WAL',
  'synchronous = NORMAL',
  'foreign_keys = ON',
];

function sqliteConfig(file: string): Knex.Config {
  makeFolder(dirname(file));
  const afterCreate: AfterCreate<SqliteConnection> = (connection, done) => {
    try {
      for (const setting of SQLITE_SETTINGS) connection.pragma(setting);
      done(null, connection);
    } catch (error) {
      // Knex does not close a connection whose set-up failed.
      connection.close();
      done(error instanceof Error ? error : new Error(String(error)), connection);
    }
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
      afterCreate: prepareMysql(options, new StatementKiller(connection)),
    },
  };
}

/** How long a statement waits for a row or table that another session has locked. */
const LOCK_WAIT_SECONDS = 5;
/** The writer tries again itself, so that a lock delays only the turns that need it. */
const WRITER_LOCK_WAIT_SECONDS = 1;

/**
 * Settings that do not depend on the server's defaults: UTC, errors instead of truncation, backslash as the escape
 * character (the driver needs it), and no gap locks, which would block unrelated inserts.
 */
function sessionSettings({ batches, queryTimeoutMs }: DatabaseOptions): string[] {
  const seconds = batches ? WRITER_LOCK_WAIT_SECONDS : LOCK_WAIT_SECONDS;
  // Migrations wait for metadata locks as long as the server says.
  const lockWait = queryTimeoutMs > 0 ? `, lock_wait_timeout = ${seconds}` : '';
  return [
    'SET NAMES utf8mb4',
    `SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = ${seconds}${lockWait}, sql_mode = '${SQL_MODE}'`,
    'SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED',
  ];
}

const SQL_MODE = [
  'STRICT_TRANS_TABLES',
  'NO_ZERO_IN_DATE',
  'NO_ZERO_DATE',
  'ERROR_FOR_DIVISION_BY_ZERO',
  'NO_ENGINE_SUBSTITUTION',
].join(',');

function prepareMysql(options: DatabaseOptions, killer: StatementKiller): AfterCreate<Connection> {
  const settings = sessionSettings(options);
  return (connection, done) => {
    withStatementTimeout(connection, options.queryTimeoutMs, killer);
    let left = settings.length;
    for (const sql of settings) {
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
