/** Deletes conversations: hides them in one short transaction, and removes their rows in slices. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversations/conversation.ts';
import type { PendingDeletion, RemovalOptions } from '../../domain/conversations/purge.ts';
import { toTime } from '../core/codec.ts';
import { type Dialect, dialectOf, placeholders } from '../core/dialect.ts';
import { select, transaction, withDeadlockRetry, withReconnect } from '../core/errors.ts';
import type { Condition } from '../core/order.ts';

/** Rows of the first slice. Rows can be megabytes long, so the number follows from the time that slices take. */
const FIRST_SLICE = 16;
const MAX_SLICE = 1000;
const SLICE_MS = 50;
/** On SQLite a statement blocks the event loop. */
const SLICE_MS_ON_SQLITE = 6;

type Table = 'messages' | 'idempotency_keys';

/** The columns after `conversation_id` by which the rows are read. */
const ORDER = { messages: ['epoch', 'seq', 'id'], idempotency_keys: ['id'] } as const;

interface StaleRow {
  readonly conversation_id: string;
  readonly id: number | string;
  readonly epoch?: number;
  readonly seq?: number;
}

/**
 * Makes conversations invisible. The transaction must have locked them. Rows of an earlier epoch are invisible, so the
 * number of messages does not matter.
 */
export async function hideConversations(
  trx: Knex,
  ids: readonly string[],
  at: Instant,
): Promise<PendingDeletion[]> {
  const time = toTime(at);
  const hidden = trx('conversations')
    .whereIn('id', ids)
    .select('id', 'owner', trx.raw('?, 0, 1', [time]));
  await trx(trx.raw('deletions (conversation_id, owner, deleted_at, renewed, pending)')).insert(hidden);
  await nextTurn();
  await trx('conversations')
    .whereIn('id', ids)
    .update({ epoch: trx.raw('epoch + 1'), deleted_at: time });
  await nextTurn();
  return dialectOf(trx).select<PendingDeletion>(
    trx,
    `SELECT d.id AS seq, c.id AS conversationId, c.epoch AS epoch FROM deletions d
     JOIN conversations c ON c.id = d.conversation_id
     WHERE d.conversation_id IN (${placeholders(ids.length)}) AND d.pending = 1`,
    ids,
  );
}

/** Deletions whose rows are not removed yet, in the order in which they were made. */
export function pendingDeletions(knex: Knex, after: number, limit: number): Promise<PendingDeletion[]> {
  const sql = `SELECT d.id AS seq, d.conversation_id AS conversationId, COALESCE(c.epoch, 0) AS epoch
     FROM deletions d ${dialectOf(knex).forceIndex('deletions_pending')}
     LEFT JOIN conversations c ON c.id = d.conversation_id
     WHERE d.pending = 1 AND d.id > ? ORDER BY d.id LIMIT ?`;
  return select(knex, sql, [after, limit]);
}

/** How long a request removes invisible rows; the rest is removed in the background. */
const SOON_MS = 300;

/** {@link removeDeleted} for a short time. Never rejects, because the conversations are deleted already. */
export async function removeSoon(knex: Knex, deletions: readonly PendingDeletion[]): Promise<void> {
  const started = performance.now();
  const isStopped = () => performance.now() - started > SOON_MS;
  await removeDeleted(knex, deletions, { isStopped }).catch(() => false);
}

/**
 * Removes the invisible rows of these conversations in slices, then the conversations. Repeating it changes nothing,
 * so several processes may do it at the same time.
 * @returns false when it was ended early
 * @throws AppError `database_unavailable`
 */
export async function removeDeleted(
  knex: Knex,
  deletions: readonly PendingDeletion[],
  options: RemovalOptions,
): Promise<boolean> {
  if (deletions.length === 0) return true;
  const ids = [...new Set(deletions.map(({ conversationId }) => conversationId))].sort();
  const removal = new Removal(knex, options);
  for (const table of ['messages', 'idempotency_keys'] as const) {
    if (!(await removal.run(table, ids))) return false;
  }
  const conversations = await withReconnect(() => removeEmpty(knex, ids, deletions));
  options.onSlice?.({ conversations, messages: 0 });
  return true;
}

class Removal {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #options: RemovalOptions;
  readonly #sliceMs: number;
  #limit = FIRST_SLICE;

  constructor(knex: Knex, options: RemovalOptions) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.#options = options;
    this.#sliceMs = this.#dialect.pooled ? SLICE_MS : SLICE_MS_ON_SQLITE;
  }

  /** @returns false when it was ended early */
  async run(table: Table, ids: readonly string[]): Promise<boolean> {
    let after: StaleRow | undefined;
    let from = 0;
    while (from < ids.length) {
      if (this.#options.isStopped?.()) return false;
      const wanted = after ? ids.slice(from, from + 1) : ids.slice(from);
      const limit = this.#limit;
      const rows = await this.#slice(table, wanted, after, limit);
      const last = rows.at(-1);
      if (last && rows.length === limit) {
        from = ids.indexOf(last.conversation_id);
        after = last;
      } else {
        from += wanted.length;
        after = undefined;
      }
      if (table === 'messages') this.#options.onSlice?.({ conversations: 0, messages: rows.length });
    }
    return true;
  }

  async #slice(
    table: Table,
    ids: readonly string[],
    after: StaleRow | undefined,
    limit: number,
  ): Promise<StaleRow[]> {
    const index = this.#dialect.forceIndex(`${table}_conversation`);
    const columns = ['conversation_id', ...ORDER[table]].join(', ');
    const behind = after ? isBehind(ORDER[table], after) : { sql: '', bindings: [] };
    const rows = await this.#timed(() =>
      this.#dialect.select<StaleRow>(
        this.#knex,
        `SELECT ${columns} FROM ${table} ${index}
         WHERE conversation_id IN (${placeholders(ids.length)}) ${behind.sql} AND ${isStale(table)}
         ORDER BY ${columns} LIMIT ?`,
        [...ids, ...behind.bindings, limit],
      ),
    );
    if (rows.length > 0) {
      const found = this.#knex(table).whereIn(
        'id',
        rows.map(({ id }) => id),
      );
      // A key that another turn has claimed meanwhile has the same id, and is not stale any more.
      await this.#timed(() =>
        (table === 'messages' ? found : found.whereRaw(isStale(table))).clone().delete(),
      );
    }
    return rows;
  }

  /** Adapts the size of the next slice, and lets other work of this process run. */
  async #timed<T>(statement: () => Promise<T>): Promise<T> {
    const started = performance.now();
    const result = await withReconnect(() => withDeadlockRetry(statement));
    const ms = performance.now() - started;
    if (ms > this.#sliceMs) this.#limit = Math.max(1, Math.floor(this.#limit / 2));
    else if (ms < this.#sliceMs / 2) this.#limit = Math.min(MAX_SLICE, this.#limit * 2);
    await nextTurn();
    return result;
  }
}

/** InnoDB keeps removed rows for a while: a slice does not look at those of the slices before it. */
function isBehind(columns: readonly ('epoch' | 'seq' | 'id')[], last: StaleRow): Condition {
  const [column = 'id', ...others] = columns;
  const value = last[column] ?? 0;
  if (others.length === 0) return { sql: `AND ${column} > ?`, bindings: [value] };
  const { sql, bindings } = isBehind(others, last);
  return { sql: `AND (${column} > ? OR (${column} = ? ${sql}))`, bindings: [value, value, ...bindings] };
}

function isStale(table: Table): string {
  return `${table}.epoch < (SELECT c.epoch FROM conversations c WHERE c.id = ${table}.conversation_id)`;
}

/** Removes conversations that nothing has used again since, and the marks of these deletions. */
function removeEmpty(
  knex: Knex,
  ids: readonly string[],
  deletions: readonly PendingDeletion[],
): Promise<number> {
  const epochs = new Map(deletions.map(({ conversationId, epoch }) => [conversationId, epoch]));
  return transaction(knex, async (trx) => {
    const locked = await dialectOf(trx).lockConversations(trx, ids);
    const empty = locked.filter((row) => row.deleted_at !== null && row.epoch === epochs.get(row.id));
    await trx('conversations')
      .whereIn(
        'id',
        empty.map(({ id }) => id),
      )
      .delete();
    await trx('deletions')
      .whereIn(
        'id',
        deletions.map(({ seq }) => seq),
      )
      .update({ pending: 0 });
    return empty.length;
  });
}
