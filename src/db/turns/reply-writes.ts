import type { ProgressOutcome, ReplyProgress, WriteOutcome } from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { fromModel, fromUsage } from '../core/codec.ts';
import type { Statement } from '../core/dialect.ts';
import type { MessageRow } from '../core/tables.ts';

export type ReplyRow = Pick<MessageRow, 'uid' | 'conversation_id' | 'status' | 'length'>;

/**
 * Appends new text to the reply. The stored length decides what is new, so that a commit whose confirmation was lost is
 * not repeated. A reply that was closed because the lease of its worker had expired continues.
 */
export function extendReply(
  reply: ReplyProgress,
  known: ReplyRow | undefined,
  written: string,
): { readonly outcome: ProgressOutcome; readonly statement?: Statement } {
  if (!known) return { outcome: 'gone' };
  if (known.status === 'cancelled') return { outcome: 'stopped' };
  const stored = known.length ?? 0;
  const text = known.status === 'complete' ? '' : reply.after(stored);
  if (text === '') return { outcome: 'saved' };
  const sql = `UPDATE messages SET content = CONCAT(content, ?), length = ?, status = 'streaming', finish_reason = NULL,
     worker = ?, updated_at = ? WHERE uid = ? AND length = ? AND status IN ('streaming', 'incomplete')`;
  const bindings = [text, stored + text.length, reply.worker, written, reply.uid, stored];
  return { outcome: 'saved', statement: { sql, bindings } };
}

/** An empty failed reply is not stored. */
export function isEmptyFailure({ content, status, finishReason }: Message): boolean {
  return content === '' && status === 'incomplete' && finishReason === 'error';
}

/** The generating worker's text wins, but a cancelled reply keeps its status. */
export function endReply(
  reply: Message,
  known: ReplyRow,
  written: string,
): { readonly outcome: WriteOutcome; readonly statement?: Statement } {
  if (known.status === 'complete') return { outcome: 'saved' };
  if (isEmptyFailure(reply)) {
    const sql = `DELETE FROM messages WHERE uid = ? AND length = 0 AND status <> 'cancelled'`;
    return { outcome: 'saved', statement: { sql, bindings: [reply.uid] } };
  }
  const stopped = known.status === 'cancelled';
  const sql = `UPDATE messages SET content = ?, length = ?, status = ?, finish_reason = ?, \`usage\` = ?, model = ?,
     worker = NULL, updated_at = ? WHERE uid = ?`;
  const bindings = [
    reply.content,
    reply.content.length,
    stopped ? 'cancelled' : reply.status,
    stopped ? 'cancelled' : reply.finishReason,
    fromUsage(reply.usage),
    fromModel(reply.model),
    written,
    reply.uid,
  ];
  const outcome = stopped && reply.status !== 'cancelled' ? 'stopped' : 'saved';
  return { outcome, statement: { sql, bindings } };
}
