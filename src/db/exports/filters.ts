/** The filter of an export as SQL conditions. */
import type { ExportFilter, ExportScope } from '../../domain/exports/exports.ts';
import { toTime } from '../core/codec.ts';
import { placeholders } from '../core/dialect.ts';
import type { Condition } from '../core/order.ts';

/** Longer than any transaction takes after it has set `updated_at`, and than the clocks of hosts differ. */
export const SETTLED_MS = 600_000;

function isRated({ rating = null }: ExportFilter): boolean {
  return rating !== null;
}

/** Whether conversations without a matching message are left out. */
export function isFiltered({ filter, since }: ExportScope): boolean {
  return filter.role !== null || filter.status !== null || isRated(filter) || since !== null;
}

/** Whether the conversations of all owners and times are looked at. */
export function hasAllConversations({ filter, conversationId }: ExportScope): boolean {
  // Jobs stored by versions without owners have no owner in their filter.
  return (filter.owner ?? filter.from ?? filter.to ?? conversationId) === null;
}

/** The scope of one page of conversations. */
export interface PageScope extends ExportScope {
  /** Those of the page whose id was deleted and used again, or of which a reply was replaced, since the cursor. */
  readonly renewed: readonly string[];
}

/** Whether all messages of a conversation are exported again. Looked up once for each, not for each of its messages. */
export function renewedColumn({ since }: ExportScope): Condition {
  if (!since) return { sql: '0', bindings: [] };
  const sql = `EXISTS (SELECT 1 FROM deletions d WHERE d.conversation_id = conversations.id AND d.deleted_at >= ?)`;
  return { sql, bindings: [toTime(since.at - SETTLED_MS)] };
}

/** Messages that were written or changed after the cursor, and all messages of a renewed conversation. */
function sinceFilter({ since, renewed }: PageScope): Condition {
  if (!since) return { sql: '', bindings: [] };
  const all = renewed.length > 0 ? ` OR messages.conversation_id IN (${placeholders(renewed.length)})` : '';
  return {
    sql: `AND (messages.updated_at >= ?${all})`,
    bindings: [toTime(since.at - SETTLED_MS), ...renewed],
  };
}

/** In all epochs of a conversation. */
export function messageFilter(scope: PageScope): Condition {
  const { role, status, rating = null } = scope.filter;
  const since = sinceFilter(scope);
  const conditions = [
    role && 'AND role = ?',
    status && 'AND status = ?',
    // A question is marked with the ratings of its replies.
    rating && `AND rating IN (?, 'both')`,
    since.sql,
  ];
  return {
    sql: conditions.filter((condition) => condition !== null).join(' '),
    bindings: [...[role, status, rating].filter((value) => value !== null), ...since.bindings],
  };
}
