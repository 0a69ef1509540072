import type { ProgressOutcome, ReplyProgress, WriteOutcome } from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { fromModel, fromUsage } from '../core/codec.ts';
import type { PacketLimit, Statement } from '../core/dialect.ts';
import type { MessageRow } from '../core/tables.ts';
import { appendRest, firstPart, isTooLong } from './text-parts.ts';

export type ReplyRow = Pick<MessageRow, 'uid' | 'conversation_id' | 'status' | 'length'>;

/**
 * Appends new text to the reply. The stored length decides what is new, so that a commit whose confirmation was lost is
 * not repeated. A reply that was closed because the lease of its worker had expired continues.
 */
export function extendReply(
  reply: ReplyProgress,
  known: ReplyRow | undefined,
  written: string,
  packet: PacketLimit,
): { readonly outcome: ProgressOutcome; readonly statements: Statement[] } {
  if (!known) return { outcome: 'gone', statements: [] };
  if (known.status === 'cancelled') return { outcome: 'stopped', statements: [] };
  const stored = known.length ?? 0;
  const text = known.status === 'complete' ? '' : reply.after(stored);
  // The end of the reply cuts what is too long.
  const cannotGrow = stored + text.length > packet.bytes / 3 && isTooLong(reply.after(0), packet);
  if (text === '' || cannotGrow) return { outcome: 'saved', statements: [] };
  const first = firstPart(text, packet);
  const sql = `UPDATE messages SET content = CONCAT(content, ?), length = ?, status = 'streaming', finish_reason = NULL,
     worker = ?, updated_at = ? WHERE uid = ? AND length = ? AND status IN ('streaming', 'incomplete')`;
  const bindings = [first, stored + first.length, reply.worker, written, reply.uid, stored];
  const rest = appendRest(reply.uid, text, first.length, stored, packet);
  return { outcome: 'saved', statements: [{ sql, bindings }, ...rest] };
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
  packet: PacketLimit,
): { readonly outcome: WriteOutcome; readonly statements: Statement[] } {
  if (known.status === 'complete') return { outcome: 'saved', statements: [] };
  if (isEmptyFailure(reply)) {
    const sql = `DELETE FROM messages WHERE uid = ? AND length = 0 AND status <> 'cancelled'`;
    return { outcome: 'saved', statements: [{ sql, bindings: [reply.uid] }] };
  }
  const { uid, content } = reply;
  const first = firstPart(content, packet);
  const stopped = known.status === 'cancelled';
  const sql = `UPDATE messages SET content = ?, length = ?, status = ?, finish_reason = ?, \`usage\` = ?, model = ?,
     worker = NULL, updated_at = ? WHERE uid = ?`;
  const bindings = [
    first,
    first.length,
    stopped ? 'cancelled' : reply.status,
    stopped ? 'cancelled' : reply.finishReason,
    fromUsage(reply.usage),
    fromModel(reply.model),
    written,
    uid,
  ];
  const outcome = stopped && reply.status !== 'cancelled' ? 'stopped' : 'saved';
  return { outcome, statements: [{ sql, bindings }, ...appendRest(uid, content, first.length, 0, packet)] };
}
