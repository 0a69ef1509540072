/**
 * Conversations that are written in several transactions: forks and long imports. Until it is complete, such a
 * conversation is stored like a deleted one, with messages of an earlier epoch, and a row in `deletions` marks it. The
 * rows of one whose process died are removed by {@link removeDeleted}.
 */
import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversations/conversation.ts';
import { toTime } from '../core/codec.ts';
import { dialectOf, type LockedConversation } from '../core/dialect.ts';
import { withReconnect } from '../core/errors.ts';
import type { Statement } from '../core/packets.ts';
import { removeDeleted } from './deletions.ts';

/** `deletions.pending` of a mark; the process that writes the conversation changes or removes the row. */
const BEING_WRITTEN = 2;
/** The epoch of the conversation; its messages have 0. */
export const UNFINISHED_EPOCH = 1;
/**
 * An incremental export could miss messages that become visible later than this after they were written. Less than the
 * exports' `SETTLED_MS`.
 */
export const SETTLED_AFTER_MS = 300_000;
/** The process of a mark that was not renewed for this long has died. */
const ABANDONED_MS = 2 * SETTLED_AFTER_MS;
/** Bounds what is searched where the marks have no index. */
const ABANDONED_SINCE_MS = 7 * 86_400_000;

/** Belongs to the transaction that inserts the conversation. Renewed: no replay of turns takes it for a deletion. */
export function markUnfinished(id: string, at: Instant): Statement {
  const sql = 'INSERT INTO deletions (conversation_id, deleted_at, renewed, pending) VALUES (?, ?, 1, ?)';
  return { sql, bindings: [id, toTime(at), BEING_WRITTEN] };
}

/** The id of the mark that this process has just made. */
export async function markOf(knex: Knex, id: string): Promise<number> {
  const [mark] = await knex('deletions').where({ conversation_id: id, pending: BEING_WRITTEN }).select('id');
  return mark?.id ?? 0;
}

/** Renews the mark, so that the conversation is not taken for abandoned. */
export function renewUnfinished(mark: number, at: Instant): Statement {
  const sql = 'UPDATE deletions SET deleted_at = ? WHERE id = ? AND pending = ?';
  return { sql, bindings: [toTime(at), mark, BEING_WRITTEN] };
}

/** Whether it is still the one that was begun at this time, and not one that a turn or another import has begun. */
export function isUnfinished({ deleted_at, epoch }: LockedConversation, begun: string): boolean {
  return deleted_at === begun && epoch === UNFINISHED_EPOCH;
}

/**
 * Removes the mark, before the same transaction makes the conversation visible. The conversation must be locked.
 * @param renewed if given, incremental exports read all its messages as changed at this time
 * @returns false when it was taken for abandoned
 */
export async function completeUnfinished(
  trx: Knex,
  mark: number,
  renewed: Instant | null = null,
): Promise<boolean> {
  const marks = trx('deletions').where({ id: mark, pending: BEING_WRITTEN });
  if (renewed === null) return (await marks.delete()) > 0;
  return (await marks.update({ pending: 0, deleted_at: toTime(renewed) })) > 0;
}

/**
 * Removes the rows and the mark, if there is one. Nothing was visible, so no incremental export has to report a deletion.
 */
export async function discardUnfinished(knex: Knex, id: string, mark: number): Promise<void> {
  const where = { id: mark, pending: BEING_WRITTEN };
  if ((await knex('deletions').where(where).update({ pending: 1 })) === 0) return;
  await removeDeleted(knex, [{ seq: mark, conversationId: id, epoch: UNFINISHED_EPOCH }], {});
  await knex('deletions').where({ id: mark, pending: 0 }).delete();
}

/** Counts those whose process died as deleted, so that their rows are removed. */
export async function abandonUnfinished(knex: Knex, now: Instant): Promise<void> {
  const index = dialectOf(knex).forceIndex('deletions_pending');
  const ids = await withReconnect(() =>
    knex
      .from(knex.raw(`deletions ${index}`))
      .where('pending', BEING_WRITTEN)
      .whereBetween('deleted_at', [toTime(now - ABANDONED_SINCE_MS), toTime(now - ABANDONED_MS)])
      .pluck<number[]>('id'),
  );
  if (ids.length > 0) await knex('deletions').whereIn('id', ids).update({ pending: 1 });
}
