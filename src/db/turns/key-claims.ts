import type { KeyClaim } from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { errorCode } from '../../domain/errors.ts';
import { toTime } from '../core/codec.ts';
import type { Statement } from '../core/packets.ts';
import type { ConversationRow, IdempotencyKeyRow } from '../core/tables.ts';
import { isPending, type ReplyRow } from './reply-writes.ts';

/** A stored key and the activity of its conversation, which is null after a deletion; the key is then free. */
export type KeyUse = Pick<IdempotencyKeyRow, 'id' | 'reply_uid'> & {
  readonly last_active: ConversationRow['last_active'] | null;
  readonly pinned: ConversationRow['pinned'];
};

/**
 * The statements that claim the key for the turn; undefined when another turn has it. They delete a replaced reply, so
 * that the question has only one. If another transaction claims the key at the same time, the INSERT and this whole
 * transaction fail; see {@link isConflict}.
 */
export function claimKey(
  key: KeyClaim,
  known: KeyUse | undefined,
  questionId: string,
  reply: Message,
  epoch: number,
  replaced: ReplyRow | undefined,
): Statement[] | undefined {
  if (key.replaces !== null) {
    if (!known?.last_active || known.reply_uid !== key.replaces) return undefined;
    // Otherwise a worker whose lease had expired is writing to the reply again.
    const hasFailed =
      !replaced || replaced.status === 'incomplete' || (isPending(replaced) && !replaced.worker);
    if (!hasFailed) return undefined;
    return [
      { sql: 'UPDATE idempotency_keys SET reply_uid = ? WHERE id = ?', bindings: [reply.uid, key.id] },
      ...(replaced?.length || replaced?.reasoning_length
        ? [recordReplacement(reply, toTime(Date.now()))]
        : []),
      {
        sql: `DELETE FROM messages WHERE uid = ? AND status IN ('incomplete', 'superseded')`,
        bindings: [key.replaces],
      },
    ];
  }
  const free: Statement[] = [];
  if (known) {
    const expired = known.pinned === 0 && (known.last_active ?? '') < toTime(key.expiredBefore);
    if (known.last_active !== null && !expired) return undefined;
    free.push({ sql: 'DELETE FROM idempotency_keys WHERE id = ?', bindings: [key.id] });
  }
  const sql = `INSERT INTO idempotency_keys
     (id, body_hash, conversation_id, question_uid, reply_uid, cached, created_at, epoch) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`;
  const { conversationId, uid, timestamp } = reply;
  const cached = key.cached ? 1 : 0;
  return [
    ...free,
    {
      sql,
      bindings: [key.id, key.bodyHash, conversationId, questionId, uid, cached, toTime(timestamp), epoch],
    },
  ];
}

/**
 * Makes incremental exports deliver the whole conversation again, because an earlier one may have the replaced reply.
 */
function recordReplacement({ conversationId }: Message, at: string): Statement {
  const sql = `INSERT INTO deletions (conversation_id, owner, deleted_at, renewed, pending)
     SELECT id, owner, ?, 1, 0 FROM conversations WHERE id = ?`;
  return { sql, bindings: [at, conversationId] };
}

/** Whether another transaction has claimed one of the keys or created one of the conversations at the same time. */
export function isConflict(error: unknown): boolean {
  // All other inserts of a batch accept existing rows. On SQLite transactions are serialized, so every claim is seen.
  return errorCode(error) === 'ER_DUP_ENTRY';
}
