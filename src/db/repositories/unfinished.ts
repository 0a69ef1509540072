/**
 * Conversations that are written in several transactions. Until it is complete, one is stored like a deleted
 * conversation, with messages of an earlier epoch; {@link removeDeleted} removes the rows of one whose process died.
 */
import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversations/conversation.ts';
import { toTime } from '../core/codec.ts';
import { dialectOf, type LockedConversation } from '../core/dialect.ts';
import { withReconnect } from '../core/errors.ts';
import type { Statement } from '../core/packets.ts';
import { removeDeleted } from './deletions.ts';

/** `deletions.pending` of one that is being written; its process changes or removes the row. */
const BEING_WRITTEN = 2;
/** The epoch of the row of the conversation; its messages have 0. */
export const UNFINISHED_EPOCH = 1;
/** Messages that are visible later than this after they were written could be missed by an incremental export. */
export const SETTLED_AFTER_MS = 300_000;
/** One that is not kept for so long has no process any more. */
const ABANDONED_MS = 2 * SETTLED_AFTER_MS;
/** Bounds what is searched where the marks have no index. */
const ABANDONED_SINCE_MS = 7 * 86_400_000;

/** Belongs to the transaction that inserts the conversation. */
export function markUnfinished(id: string, at: Instant): Statement {
  const sql = 'INSERT INTO deletions (conversation_id, deleted_at, renewed, pending) VALUES (?, ?, 0, ?)';
  return { sql, bindings: [id, toTime(at), BEING_WRITTEN] };
}

/** Once a minute for one that takes long. */
export function keepUnfinished(id: string, at: Instant): Statement {
  const sql = 'UPDATE deletions SET deleted_at = ? WHERE conversation_id = ? AND pending = ?';
  return { sql, bindings: [toTime(at), id, BEING_WRITTEN] };
}

export function isUnfinished({ deleted_at, epoch }: LockedConversation): boolean {
  return deleted_at !== null && epoch === UNFINISHED_EPOCH;
}

/**
 * Removes the mark. The conversation must be locked, and is then to be made visible.
 * @param renewed incremental exports have all its messages as changed now
 * @returns false when it was taken for abandoned
 */
export async function finish(trx: Knex, id: string, renewed: Instant | null = null): Promise<boolean> {
  const mark = trx('deletions').where({ conversation_id: id, pending: BEING_WRITTEN });
  if (renewed === null) return (await mark.delete()) > 0;
  return (await mark.update({ pending: 0, renewed: 1, deleted_at: toTime(renewed) })) > 0;
}

/** Removes what is written. Nothing of it was visible, so that no incremental export has to report its deletion. */
export async function discard(knex: Knex, id: string): Promise<void> {
  const [mark] = await knex('deletions')
    .where({ conversation_id: id, pending: BEING_WRITTEN })
    .select('id')
    .limit(1);
  if (!mark) return;
  await knex('deletions').where('id', mark.id).update({ pending: 1 });
  await removeDeleted(knex, [{ seq: mark.id, conversationId: id, epoch: UNFINISHED_EPOCH }], {});
  await knex('deletions').where({ id: mark.id, pending: 0 }).delete();
}

/** Marks those whose process died, so that their rows are removed like those of deleted conversations. */
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
