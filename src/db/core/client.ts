import { dirname } from 'node:path';
import openKnex, { type Knex } from 'knex';
import type { Connection, RowDataPacket } from 'mysql2';
import type { Logger } from 'pino';
import { makeFolder } from '../../util/folders.ts';
import { ConnectProgress } from './connection/connect-progress.ts';
import { ConnectionGeneration, type TrackedConnection } from './connection/connection-generation.ts';
import { keepStatements, type PreparingConnection } from './connection/kept-statements.ts';
import { parseMysqlUrl } from './connection/mysql-url.ts';
import { StatementKiller, withStatementTimeout } from './connection/statement-timeout.ts';
import { needsNewConnection } from './error-classes.ts';
import { QueueFullError, withFileLockRetry } from './errors.ts';
import { migrationSettings } from './migrations.ts';

export interface DatabaseOptions {
  readonly target:
    | { readonly kind: 'sqlite'; readonly file: string }
    | { readonly kind: 'mysql'; readonly url: string };
  readonly poolMin: number;
  readonly poolMax: number;
  /** MySQL only: how many requests may wait for a connection; more fail immediately. Default: 100 × poolMax. */
  readonly queueMax?: number;
  /** Maximum wait for a free connection, and for each step of opening one. */
  readonly acquireTimeoutMs: number;
  /** Timeout of every statement, BEGIN and COMMIT included; 0: none, for migrations. */
  readonly queryTimeoutMs: number;
  /** The longest text that is stored, in bytes. */
  readonly textMaxBytes?: number;
  /** For {@link Dialect.batch}: allows several statements in one packet on MySQL. */
  readonly batches?: boolean;
  /** With `batches`: called for each connection with the server's `max_allowed_packet`. */
  readonly onPacketLimit?: (maxAllowedPacket: number) => void;
  /** Of all pools of one database; default: of this pool alone. */
  readonly generation?: ConnectionGeneration;
}

/**
 * Does not connect yet.
 * @throws Error with one readable line when the URL is not one
 */
export function createKnex(options: DatabaseOptions, logger?: Logger): Knex {
  const progress = new ConnectProgress(options.acquireTimeoutMs);
  const knex = openKnex(knexConfig(options, logger, progress));
  // SQLite has no server that could freeze, and the writer shares its one connection.
  if (options.target.kind === 'mysql') {
    limitPoolQueue(knex, options.queueMax ?? QUEUE_PER_CONNECTION * options.poolMax);
    limitPoolWait(knex, options.acquireTimeoutMs, progress);
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

/** A request waits longer than the limit while a connection is being opened to a server that responds. */
function limitPoolWait({ client: { pool } }: Knex, limitMs: number, progress: ConnectProgress): void {
  interface Waiting {
    readonly promise: Promise<unknown>;
    reject(error: Error): void;
  }
  const acquire: () => Waiting = pool.acquire.bind(pool);
  pool.acquire = () => {
    const waiting = acquire();
    const timer = setTimeout(() => {
      if (progress.isResponding) timer.refresh();
      else waiting.reject(new Error('operation timed out: no free connection'));
    }, limitMs);
    const end = () => clearTimeout(timer);
    waiting.promise.then(end, end);
    return waiting;
  };
}

/** The name of the database in logs, without user and password. */
export function describeTarget({ target }: Pick<DatabaseOptions, 'target'>): string {
  if (target.kind === 'sqlite') return `SQLite ${target.file}`;
  const { host, port, database } = parseMysqlUrl(target.url);
  return `MySQL ${host.includes(':') ? `[${host}]` : host}:${port}/${database}`;
}

export function knexConfig(
  options: DatabaseOptions,
  logger?: Logger,
  progress = new ConnectProgress(options.acquireTimeoutMs),
): Knex.Config {
  const { target, acquireTimeoutMs } = options;
  return {
    acquireConnectionTimeout: acquireTimeoutMs,
    ...(target.kind === 'sqlite' ? sqliteConfig(target.file) : mysqlConfig(target.url, options, progress)),
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

interface SqliteConnection extends PreparingConnection {
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
      keepStatements(connection);
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

function mysqlConfig(url: string, options: DatabaseOptions, progress: ConnectProgress): Knex.Config {
  const { totalMs } = progress;
  const { generation = new ConnectionGeneration() } = options;
  const connection = {
    ...parseMysqlUrl(url),
    charset: 'utf8mb4',
    timezone: 'Z',
    dateStrings: true,
    supportBigNumbers: true,
    keepAliveInitialDelay: 10_000,
    connectTimeout: totalMs,
    // Only for the writer, whose SQL is constant; the driver escapes every value.
    multipleStatements: options.batches ?? false,
  };
  return {
    client: 'mysql2',
    // Spares a query for the version of the server, which Knex would use to adapt its builder.
    version: 'latest',
    connection: { ...connection, stream: progress.open },
    acquireConnectionTimeout: totalMs,
    pool: {
      min: options.poolMin,
      max: options.poolMax,
      createTimeoutMillis: totalMs,
      validate: (connection: TrackedConnection) => generation.isCurrent(connection),
      afterCreate: prepareMysql({ ...options, generation }, progress, new StatementKiller(connection)),
    },
  };
}

/** How long a statement waits for a row or table that another session has locked. */
const LOCK_WAIT_SECONDS = 5;
/** The writer tries again itself, so that a lock delays only the turns that need it. */
const WRITER_LOCK_WAIT_SECONDS = 1;

const SQL_MODE = [
  'STRICT_TRANS_TABLES',
  'NO_ZERO_IN_DATE',
  'NO_ZERO_DATE',
  'ERROR_FOR_DIVISION_BY_ZERO',
  'NO_ENGINE_SUBSTITUTION',
].join(',');

/** Session variables that the program relies on, whatever the server's defaults are. */
const SESSION = {
  time_zone: `'+00:00'`,
  // Errors instead of truncation, and backslash as the escape character, which the driver needs.
  sql_mode: `'${SQL_MODE}'`,
  autocommit: 1,
  // 1 would keep a transaction open after each COMMIT.
  completion_type: 0,
  foreign_key_checks: 1,
  unique_checks: 1,
  sql_safe_updates: 0,
  sql_auto_is_null: 0,
  sql_big_selects: 1,
  sql_select_limit: '18446744073709551615',
  // For the tables that Knex creates.
  default_storage_engine: 'InnoDB',
};

/** No gap locks, which would block unrelated inserts. */
const transactionVariables = (prefix: string): string =>
  `, ${prefix}_isolation = 'READ-COMMITTED', ${prefix}_read_only = 0`;

/** MySQL and MariaDB execute comments of their own; their names for the same variables differ. */
const TRANSACTIONS = `/*!80000 ${transactionVariables('transaction')} */ /*M!100000 ${transactionVariables('tx')} */`;

/**
 * After so many seconds MariaDB ends the connection of a process that was frozen or cut off inside a transaction: its
 * locks would keep other processes from writing, their heartbeats too. MySQL has no such limit.
 */
const IDLE_TRANSACTION_SECONDS = 20;
const IDLE_TRANSACTIONS = `/*M!100300 , idle_transaction_timeout = ${IDLE_TRANSACTION_SECONDS} */`;

/** One statement, because each costs a round trip. */
function sessionSettings({ batches, queryTimeoutMs }: DatabaseOptions): string {
  const seconds = batches ? WRITER_LOCK_WAIT_SECONDS : LOCK_WAIT_SECONDS;
  const variables = {
    ...SESSION,
    innodb_lock_wait_timeout: seconds,
    // Migrations wait for metadata locks as long as the server says.
    ...(queryTimeoutMs > 0 && { lock_wait_timeout: seconds }),
  };
  const assignments = Object.entries(variables).map(([name, value]) => `${name} = ${value}`);
  return `SET NAMES utf8mb4, ${assignments.join(', ')} ${TRANSACTIONS} ${IDLE_TRANSACTIONS}${batches ? PACKET_LIMIT : ''}`;
}

const PACKET_LIMIT = '; SELECT @@max_allowed_packet AS bytes';

/** See {@link Dialect.batch}. */
interface BatchConnection extends Connection, TrackedConnection {
  maxAllowedPacket?: number;
}

function prepareMysql(
  options: DatabaseOptions & { readonly generation: ConnectionGeneration },
  progress: ConnectProgress,
  killer: StatementKiller,
): AfterCreate<BatchConnection> {
  const settings = sessionSettings(options);
  const { generation, batches = false } = options;
  return (connection, done) => {
    generation.begin(connection, batches);
    withStatementTimeout(connection, options.queryTimeoutMs, killer, (code) => {
      if (needsNewConnection(code) && generation.isCurrent(connection)) generation.end();
    });
    connection.query<RowDataPacket[][]>(settings, (error, results) => {
      progress.done(connection);
      // Knex does not close a connection whose set-up failed.
      if (error) connection.destroy();
      else if (options.batches) {
        connection.maxAllowedPacket = Number(results[1]?.[0]?.bytes);
        options.onPacketLimit?.(connection.maxAllowedPacket);
      }
      done(error, connection);
    });
  };
}
