/** What an export takes, as conditions of its statements. */
import type { ExportScope } from '../../domain/exports.ts';
import { toTime } from '../core/codec.ts';

/** Longer than any transaction takes, and than clocks of hosts may differ. */
export const SETTLED_MS = 600_000;

/** Whether conversations without a message to export are left out. */
export function isFiltered({ filter, since }: ExportScope): boolean {
  return filter.role !== null || filter.status !== null || since !== null;
}

/**
 * What came or changed after the cursor, and all of a conversation that was deleted since and began anew. By row
 * number and by time: numbers do not depend on clocks, and a reply that was given up for dead may be written to the
 * end much later, out of a journal.
 */
export function sinceFilter({ since }: ExportScope): { sql: string; bindings: (string | number)[] } {
  if (!since) return { sql: '', bindings: [] };
  const changed = toTime(since.at - SETTLED_MS);
  const sql = `AND (messages.id > ? OR messages.updated_at >= ? OR EXISTS (SELECT 1 FROM deletions d
     WHERE d.conversation_id = messages.conversation_id AND d.deleted_at >= ?))`;
  return { sql, bindings: [since.seq, changed, changed] };
}

/** What of the messages of a conversation is exported. */
export function messageFilter(scope: ExportScope): { sql: string; bindings: (string | number)[] } {
  const { filter, lastSeq } = scope;
  const since = sinceFilter(scope);
  const role = filter.role === null ? [] : [filter.role];
  const status = filter.status === null ? [] : [filter.status];
  const sql = `AND id <= ?${role.length > 0 ? ' AND role = ?' : ''}${status.length > 0 ? ' AND status = ?' : ''}`;
  return { sql: `${sql} ${since.sql}`, bindings: [lastSeq, ...role, ...status, ...since.bindings] };
}
