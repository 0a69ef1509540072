/** The filter of an export as SQL conditions. */
import type { ExportScope } from '../../domain/exports/exports.ts';
import { toTime } from '../core/codec.ts';

interface Conditions {
  /** Begins with AND, unless it is empty. */
  readonly sql: string;
  readonly bindings: readonly (string | number)[];
}

/** Longer than any transaction takes, and than the clocks of hosts differ. */
export const SETTLED_MS = 600_000;

/** Whether conversations without a matching message are left out. */
export function isFiltered({ filter, since }: ExportScope): boolean {
  return filter.role !== null || filter.status !== null || since !== null;
}

/**
 * Messages that were written or changed after the cursor, and all messages of a conversation whose id was deleted and
 * used again. By row number, which does not depend on clocks, and by time, because a journal may update a row much
 * later.
 */
export function sinceFilter({ since }: ExportScope): Conditions {
  if (!since) return { sql: '', bindings: [] };
  const changed = toTime(since.at - SETTLED_MS);
  const sql = `AND (messages.id > ? OR messages.updated_at >= ? OR EXISTS (SELECT 1 FROM deletions d
     WHERE d.conversation_id = messages.conversation_id AND d.deleted_at >= ?))`;
  return { sql, bindings: [since.seq, changed, changed] };
}

/** In all epochs of a conversation. */
export function messageFilter(scope: ExportScope): Conditions {
  const { role, status } = scope.filter;
  const since = sinceFilter(scope);
  const sql = `AND id <= ?${role ? ' AND role = ?' : ''}${status ? ' AND status = ?' : ''} ${since.sql}`;
  return {
    sql,
    bindings: [scope.lastSeq, ...[role, status].filter((value) => value !== null), ...since.bindings],
  };
}

/** For counting. Conversations of the first epoch need no such condition, so that an index suffices. */
export const VISIBLE = `AND messages.epoch = (SELECT epoch FROM conversations
  WHERE conversations.id = messages.conversation_id AND deleted_at IS NULL)`;
