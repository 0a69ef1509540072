/** All differences between MySQL (and MariaDB) and SQLite. No other file branches on the database. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import openKnex, { type Knex } from 'knex';
import { syncToDisk } from '../../util/sync-to-disk.ts';
import { type PacketLimit, packetLimit, packets, type Statement, UNLIMITED, type Value } from './packets.ts';
import type { ConversationRow, CounterRow, HistoryColumns } from './tables.ts';

/** Releases an advisory lock. Never rejects: a lock whose connection broke is free already. */
export type ReleaseLock = () => Promise<void>;

export interface Dialect {
  /** Whether there are several connections. With one only, a statement beside a transaction waits for its end. */
  readonly pooled: boolean;
  /** Clause after `VALUES …` of conversations: an existing row gets the history; activity and `last_seq` only increase. */
  readonly conversationConflict: string;
  /** Clause after `VALUES …` of messages: an existing row stays unchanged. Other errors of a row remain errors. */
  readonly messageConflict: string;
  /**
   * Locks the conversations that exist until the transaction ends, and returns them. Must be the first statement of a
   * transaction. Deletes of messages lock the conversation first, so its messages are safe too.
   */
  lockConversations(trx: Knex, ids: readonly string[]): Promise<LockedConversation[]>;
  /** The same as SQL for {@link Dialect.batch}, with `count` bindings. Rows that are locked are left out. */
  lockSql(count: number): string;
  /** At the end of a SELECT: locks its rows and skips rows locked by others. Empty where rows have no locks. */
  readonly skipLocked: string;
  /**
   * Index hint after a table's name. With a LIMIT, MySQL can choose to scan a large table by its primary key; SQLite
   * needs no hint.
   */
  forceIndex(index: string): string;
  /** Adds to a counter, or inserts it, in one statement. Resolves to the total right after it. */
  addPoints(knex: Knex, counter: CounterRow): Promise<number>;
  /** Runs plain SQL, for paths where Knex's builder costs more than the query. */
  select<Row>(knex: Knex, sql: string, bindings: readonly Value[]): Promise<Row[]>;
  /**
   * One transaction of plain SQL in as few round trips as possible: `reads` first (the first one must lock, as
   * {@link Dialect.lockSql} does), then the writes that `plan` returns for their rows.
   * @throws the driver's error
   */
  batch<T>(knex: Knex, reads: readonly Statement[], plan: BatchPlan<T>): Promise<T>;
  /** Waits while another program has locked SQLite's file. Servers wait by themselves. @throws the driver's error */
  waitForWriteLock(knex: Knex): Promise<void>;
  /**
   * Copies the database to a file beside it, also while it is used, and resolves to the path; null where the server
   * makes backups. @throws the driver's error
   */
  backup(knex: Knex, suffix: string): Promise<string | null>;
  /** Runs the SQL of one migration step: one statement on MySQL, which cannot roll DDL back. */
  ddl(knex: Knex, sql: { readonly mysql: string; readonly sqlite: readonly string[] }): Promise<void>;
  /**
   * Takes a lock among all processes of this database; null when it is still taken after `waitSeconds`. SQLite has no
   * advisory locks: nothing is locked.
   */
  advisoryLock(knex: Knex, name: string, waitSeconds: number): Promise<ReleaseLock | null>;
}

/** From the rows of each read to the writes and the result. */
type BatchPlan<T> = (
  rows: readonly unknown[][],
  packet: PacketLimit,
) => {
  readonly writes: readonly Statement[];
  readonly result: T;
};

/** Also one that is deleted, as long as its rows are not removed. */
export type LockedConversation = Pick<
  ConversationRow,
  'id' | 'owner' | 'last_active' | 'pinned' | 'epoch' | 'deleted_at' | 'last_seq'
> &
  HistoryColumns;

const LOCKED_COLUMNS =
  'id, owner, last_active, pinned, epoch, deleted_at, last_seq, history_hash, history_open, history_reply';

/** `?, ?, ?` */
export function placeholders(count: number): string {
  return Array(count).fill('?').join(', ');
}

/** `tuple, tuple, tuple` */
export function repeated(tuple: string, count: number): string {
  return `${tuple}, `.repeat(count - 1) + tuple;
}

/** The maximum of a timer: an idle connection that holds a lock must not be closed. */
const MAX_TIMER_MS = 2 ** 31 - 1;

const BEGIN: Statement = { sql: 'START TRANSACTION', bindings: [] };
const COMMIT: Statement = { sql: 'COMMIT', bindings: [] };
const ROLLBACK: Statement = { sql: 'ROLLBACK', bindings: [] };

/** What packets use of mysql2. */
interface MysqlConnection {
  readonly maxAllowedPacket: number;
  query(
    packet: { readonly sql: string; readonly values: Statement['bindings'] },
    done: (error: Error | null, results: unknown[][]) => void,
  ): void;
  destroy(): void;
}

/** Several statements in one round trip. After an error the server skips the others. */
function runPacket(connection: MysqlConnection, statements: readonly Statement[]): Promise<unknown[][]> {
  const sql = statements.map((statement) => statement.sql).join(';\n');
  const values = statements.flatMap((statement) => statement.bindings);
  return new Promise((resolve, reject) => {
    connection.query({ sql, values }, (error, results) => (error ? reject(error) : resolve(results)));
  });
}

/** The hint makes all processes lock in the order of the primary key, also in small tables. */
const conversationsSql = (count: number): string =>
  `SELECT ${LOCKED_COLUMNS} FROM conversations FORCE INDEX (PRIMARY)
   WHERE id IN (${placeholders(count)}) ORDER BY id`;

const mysql: Dialect = {
  pooled: true,
  conversationConflict: `ON DUPLICATE KEY UPDATE last_active = GREATEST(last_active, VALUES(last_active)),
    last_seq = GREATEST(last_seq, VALUES(last_seq)),
    history_hash = VALUES(history_hash), history_open = VALUES(history_open), history_reply = VALUES(history_reply)`,
  messageConflict: 'ON DUPLICATE KEY UPDATE uid = uid',
  forceIndex: (index) => `FORCE INDEX (${index})`,

  lockConversations(trx, ids) {
    return this.select(trx, `${conversationsSql(ids.length)} FOR UPDATE`, ids);
  },

  lockSql(count) {
    return `${conversationsSql(count)} ${this.skipLocked}`;
  },

  skipLocked: 'FOR UPDATE SKIP LOCKED',

  // Several statements in one packet: round trips are half of the cost of a small transaction. After an error the
  // server skips the rest of the packet and the transaction stays open.
  async batch<T>(knex: Knex, reads: readonly Statement[], plan: BatchPlan<T>): Promise<T> {
    const connection: MysqlConnection = await knex.client.acquireConnection();
    const run = (statements: readonly Statement[]) => runPacket(connection, statements);
    const packet = packetLimit(connection.maxAllowedPacket);
    const write = async (statements: readonly Statement[]): Promise<void> => {
      for (const group of packets(statements, packet)) await run(group);
    };
    try {
      if (reads.length === 0) {
        const { writes, result } = plan([], packet);
        await write([BEGIN, ...writes, COMMIT]);
        return result;
      }
      const [, ...rows] = await run([BEGIN, ...reads]);
      const { writes, result } = plan(rows, packet);
      await write([...writes, COMMIT]);
      return result;
    } catch (error) {
      await run([ROLLBACK]).catch(() => connection.destroy());
      throw error;
    } finally {
      await knex.client.releaseConnection(connection);
    }
  },

  async addPoints(knex, counter) {
    // MySQL has no RETURNING, but reports the argument of LAST_INSERT_ID: 0 where the row is new.
    const points = knex.raw('LAST_INSERT_ID(points + ?)', [counter.points]);
    const [total] = await knex('rate_limits').insert(counter).onConflict('id').merge({ points });
    return total || counter.points;
  },

  async select<Row>(knex: Knex, sql: string, bindings: readonly Value[]) {
    const [rows = []] = await knex.raw<[Row[]]>(sql, bindings);
    return rows;
  },

  async waitForWriteLock() {},

  backup: async () => null,

  async ddl(knex, sql) {
    await knex.raw(sql.mysql);
  },

  // On a connection beside the pool: work under the lock may need the whole pool.
  async advisoryLock(knex, name, waitSeconds) {
    const { config } = knex.client;
    const session = openKnex({
      ...config,
      pool: { ...config.pool, min: 0, max: 1, idleTimeoutMillis: MAX_TIMER_MS },
    });
    // Lock names are global to the server and at most 64 characters long, as database names can be too.
    const scoped = `CONCAT(?, ':', IF(CHAR_LENGTH(DATABASE()) > 40, LEFT(SHA2(DATABASE(), 256), 40), DATABASE()))`;
    const unlock = async (): Promise<void> => {
      await session.raw(`DO RELEASE_LOCK(${scoped})`, [name]).catch(() => {});
      await session.destroy();
    };
    try {
      const sql = `SELECT GET_LOCK(${scoped}, ?) AS got`;
      const [row] = await this.select<{ got: number | null }>(session, sql, [name, waitSeconds]);
      if (row?.got === 1) return unlock;
    } catch (error) {
      await session.destroy();
      throw error;
    }
    await session.destroy();
    return null;
  },
};

/**
 * A transaction that reads first and writes later fails immediately when another process wrote in between; one that
 * starts with a write, even of no row, waits for the lock.
 */
const TAKE_WRITE_LOCK = 'UPDATE conversations SET last_active = last_active WHERE 0';

/** What {@link Dialect.batch} uses of better-sqlite3. */
interface SqliteConnection {
  readonly inTransaction: boolean;
  prepare(sql: string): {
    run(bindings?: Statement['bindings']): unknown;
    all(bindings: Statement['bindings']): unknown[];
  };
}

const sqlite: Dialect = {
  pooled: false,
  conversationConflict: `ON CONFLICT (id) DO UPDATE SET last_active = MAX(last_active, excluded.last_active),
    last_seq = MAX(last_seq, excluded.last_seq),
    history_hash = excluded.history_hash, history_open = excluded.history_open, history_reply = excluded.history_reply`,
  messageConflict: 'ON CONFLICT (uid) DO NOTHING',
  forceIndex: () => '',

  async lockConversations(trx, ids) {
    await trx.raw(TAKE_WRITE_LOCK);
    return this.select(trx, this.lockSql(ids.length), ids);
  },

  lockSql(count) {
    return `SELECT ${LOCKED_COLUMNS} FROM conversations WHERE id IN (${placeholders(count)})`;
  },

  // The lock of the file is held already.
  skipLocked: '',

  // On the connection itself: Knex's transaction costs as much as its statements.
  async batch<T>(knex: Knex, reads: readonly Statement[], plan: BatchPlan<T>): Promise<T> {
    const planned = reads.length === 0 ? plan([], UNLIMITED) : undefined;
    if (planned?.writes.length === 0) return planned.result;
    const connection: SqliteConnection = await knex.client.acquireConnection();
    try {
      connection.prepare('BEGIN IMMEDIATE').run();
      const rows = reads.map(({ sql, bindings }) => connection.prepare(sql).all(bindings));
      const { writes, result } = planned ?? plan(rows, UNLIMITED);
      await runYielding(writes, ({ sql, bindings }) => connection.prepare(sql).run(bindings));
      connection.prepare('COMMIT').run();
      return result;
    } catch (error) {
      // SQLite ends the transaction itself after some errors.
      if (connection.inTransaction) rollBack(connection);
      throw error;
    } finally {
      await knex.client.releaseConnection(connection);
    }
  },

  async addPoints(knex, counter) {
    const points = knex.raw('points + ?', [counter.points]);
    const inserting = knex('rate_limits').insert(counter).onConflict('id').merge({ points });
    const [row] = await inserting.returning('points');
    return row?.points ?? counter.points;
  },

  async select(knex, sql, bindings) {
    const answer = await knex.raw(sql, bindings);
    return answer;
  },

  async waitForWriteLock(knex) {
    await knex.raw('BEGIN IMMEDIATE');
    await knex.raw('ROLLBACK');
  },

  async backup(knex, suffix) {
    const copy = `${knex.client.config.connection.filename}.${suffix}`;
    await knex.raw('VACUUM INTO ?', [copy]);
    syncToDisk(copy);
    return copy;
  },

  async ddl(knex, sql) {
    for (const statement of sql.sqlite) await knex.raw(statement);
  },

  async advisoryLock() {
    return async () => {};
  },
};

/** How long statements run on SQLite, where they block the event loop, before other work gets its turn. */
const TURN_MS = 10;

/** The error before it is the one that counts. */
function rollBack(connection: SqliteConnection): void {
  try {
    connection.prepare('ROLLBACK').run();
  } catch {
    // The next transaction fails to begin.
  }
}

/** Runs the statements one after the other. */
export function runAll(trx: Knex, statements: readonly Statement[]): Promise<void> {
  return runYielding(statements, ({ sql, bindings }) => trx.raw(sql, [...bindings]));
}

/** Lets other work of the event loop run between statements, after TURN_MS. */
async function runYielding(
  statements: readonly Statement[],
  run: (statement: Statement) => unknown,
): Promise<void> {
  let turn = performance.now();
  for (const statement of statements) {
    await run(statement);
    if (performance.now() - turn < TURN_MS) continue;
    await nextTurn();
    turn = performance.now();
  }
}

export function dialectOf(knex: Knex): Dialect {
  const driver: unknown = knex.client.driverName;
  return driver === 'better-sqlite3' ? sqlite : mysql;
}
