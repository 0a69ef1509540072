import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { ExportCursor } from '../../domain/exports/exports.ts';
import { toTime } from '../core/codec.ts';
import { dialectOf } from '../core/dialect.ts';
import { select } from '../core/errors.ts';
import { SETTLED_MS } from './filters.ts';

export interface ChangeLimits {
  /** Messages that one statement looks at. */
  readonly window: number;
  /** Conversations that are remembered. */
  readonly conversations: number;
}

/**
 * The conversations with messages that were written or changed after the cursor. It reads the messages in the order in
 * which the server stores them, which is several times faster than conversation by conversation. Null: there is no
 * cursor, more changed than the limit, or this is SQLite, where such a statement would read through long contents.
 * Yields after each statement.
 */
export async function* changedConversations(
  knex: Knex,
  since: ExportCursor | null,
  { window, conversations }: ChangeLimits,
): AsyncGenerator<undefined, ReadonlySet<string> | null> {
  const dialect = dialectOf(knex);
  if (since === null || !dialect.pooled) return null;
  const table = `messages ${dialect.forceIndex('PRIMARY')}`;
  const from = toTime(since.at - SETTLED_MS);
  const changed = new Set<string>();
  for (let after = 0; ; ) {
    const [end] = await select<{ id: number }>(
      knex,
      `SELECT id FROM ${table} WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?`,
      [after, window - 1],
    );
    const until = end?.id ?? Number.MAX_SAFE_INTEGER;
    const rows = await select<{ conversation_id: string }>(
      knex,
      `SELECT DISTINCT conversation_id FROM ${table} WHERE id > ? AND id <= ? AND updated_at >= ?`,
      [after, until, from],
    );
    for (const row of rows) changed.add(row.conversation_id);
    if (changed.size > conversations) return null;
    if (!end) return changed;
    after = until;
    yield undefined;
    await nextTurn();
  }
}
