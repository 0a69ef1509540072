/** The timeout of statements on MySQL. */
import type { Connection, ConnectionOptions } from 'mysql2';
import { errorCode } from '../../../domain/errors.ts';
import { ConnectProgress } from './connect-progress.ts';

/** A server that takes longer for a step of a new connection or a short statement counts as frozen. */
const PROBE_MS = 1500;

/**
 * Ends statements on the server that were given up here, over a connection of its own: the server would continue to
 * execute them and hold their locks. The same connection shows whether the server is slow or frozen.
 */
export class StatementKiller {
  readonly #options: ConnectionOptions;
  #threadIds: number[] = [];
  #last = Promise.resolve(true);
  #next: Promise<boolean> | undefined;

  /** @param options of the connections whose statements are killed */
  constructor(options: ConnectionOptions) {
    this.#options = options;
  }

  /** Resolves to whether the server responds: a frozen one after {@link PROBE_MS}. Never rejects. */
  kill(threadId: number): Promise<boolean> {
    this.#threadIds.push(threadId);
    // Statements that time out together share a connection.
    this.#next ??= this.#last.then(() => this.#run());
    return this.#next;
  }

  async #run(): Promise<boolean> {
    const { createConnection } = await import('mysql2');
    await new Promise(setImmediate);
    const ids = this.#threadIds;
    this.#threadIds = [];
    if (this.#next) this.#last = this.#next;
    this.#next = undefined;
    const { open, totalMs } = new ConnectProgress(PROBE_MS);
    const connection = createConnection({ ...this.#options, stream: open, connectTimeout: totalMs });
    const { promise, resolve } = Promise.withResolvers<boolean>();
    // An error response, such as too many connections, is a sign of life too.
    const failed = (error: Error) => resolve(errorCode(error)?.startsWith('ER_') === true);
    connection.on('error', failed);
    // A proxy can lead to another server, or to one that was restarted: only a busy session of this user is killed.
    const sql = `SELECT id FROM information_schema.processlist
       WHERE id IN (?) AND command <> 'Sleep' AND user = SUBSTRING_INDEX(USER(), '@', 1)`;
    connection.query({ sql, values: [ids], rowsAsArray: true }, (error, rows) => {
      if (error) return failed(error);
      const found = Array.isArray(rows) ? rows.flat().map(Number) : [];
      let left = found.length;
      if (left === 0) resolve(true);
      for (const id of found) {
        // It may have ended meanwhile, or the user may lack the right.
        connection.query(`KILL ${id}`, () => {
          left -= 1;
          if (left === 0) resolve(true);
        });
      }
    });
    try {
      return await promise;
    } finally {
      connection.destroy();
    }
  }
}

type Callback = (error: (Error & { code?: string; sql?: string }) | null, ...rest: unknown[]) => void;

/**
 * Knex's `.timeout()` does not cover BEGIN and COMMIT, so a frozen server would hold a transaction for ever. After a
 * timeout the connection is destroyed, because its response may still arrive, and the pool opens another one. The
 * error then says whether the server is slow (PROTOCOL_SEQUENCE_TIMEOUT) or frozen (ETIMEDOUT). The driver's errors
 * carry the statement with its data, which must not be logged.
 */
export function withStatementTimeout(
  connection: Connection & { __knex__disposed?: unknown },
  timeoutMs: number,
  killer: StatementKiller,
  onError: (code: string | undefined) => void,
): void {
  const query: CallableFunction = connection.query.bind(connection);
  const checked =
    (callback: Callback): Callback =>
    (error, ...rest) => {
      if (error) {
        delete error.sql;
        onError(error.code);
      }
      if (error?.code !== 'PROTOCOL_SEQUENCE_TIMEOUT') return callback(error, ...rest);
      connection.__knex__disposed = error;
      connection.destroy();
      void killer.kill(connection.threadId).then((responds) => {
        if (!responds) error.code = 'ETIMEDOUT';
        callback(error, ...rest);
      });
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
