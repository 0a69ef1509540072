import type { ProgressOutcome, ReplyProgress, WriteOutcome } from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { fromDetails, fromModel, fromUsage } from '../core/codec.ts';
import { positionOf, slicesBetween } from '../core/order.ts';
import type { PacketLimit, Statement } from '../core/packets.ts';
import type { MessageRow } from '../core/tables.ts';
import {
  appendDetails,
  appendRest,
  CONTENT,
  firstPart,
  isTooLong,
  REASONING,
  type TextColumn,
} from './text-parts.ts';

export type ReplyRow = Pick<
  MessageRow,
  | 'id'
  | 'seq'
  | 'epoch'
  | 'uid'
  | 'conversation_id'
  | 'status'
  | 'length'
  | 'reasoning_length'
  | 'worker'
  | 'finish_reason'
  | 'reply_to'
>;

/**
 * Whether the reply of a revision has no text yet. It is stored as `superseded`, so that no reader shows it before it
 * replaces other messages. Superseded replies that have ended have a finish reason. A pending reply without a worker
 * has failed together with its process.
 */
export function isPending({ status, finish_reason }: Pick<ReplyRow, 'status' | 'finish_reason'>): boolean {
  return status === 'superseded' && finish_reason === null;
}

/** How many messages one statement supersedes. The limit is for SQLite, where a statement blocks the event loop. */
const SUPERSEDED_SLICE = 2000;

/**
 * The statements that make an edited question visible and supersede the messages that the revision replaces. The caller
 * changes the status of the pending reply itself.
 * @param from the edited question, or the question that gets another reply
 * @returns undefined when another revision has replaced the same messages already
 */
export function takePlace(
  reply: ReplyRow,
  from: ReplyRow | undefined,
  written: string,
): Statement[] | undefined {
  if (!from || from.status === 'superseded') return undefined;
  const isRegenerated = from.uid === reply.reply_to;
  const { conversation_id: conversationId, epoch } = reply;
  const after = positionOf(from) - (isRegenerated ? 0 : 1);
  const superseded = slicesBetween(after, positionOf(reply) - 1, SUPERSEDED_SLICE).map((range) => ({
    sql: `UPDATE messages SET
     finish_reason = CASE WHEN role <> 'assistant' OR finish_reason IS NOT NULL THEN finish_reason
       WHEN status = 'streaming' THEN 'error' ELSE 'stop' END,
     status = 'superseded', worker = NULL, updated_at = ?
     WHERE conversation_id = ? AND epoch = ? ${range.sql} AND status <> 'superseded'`,
    bindings: [written, conversationId, epoch, ...range.bindings],
  }));
  const changed = {
    sql: 'UPDATE conversations SET history_hash = NULL, history_open = NULL WHERE id = ?',
    bindings: [conversationId],
  };
  if (isRegenerated) return [...superseded, changed];
  const shown = `UPDATE messages SET status = 'complete', updated_at = ? WHERE uid = ? AND status = 'superseded'`;
  return [...superseded, changed, { sql: shown, bindings: [written, reply.reply_to] }];
}

/**
 * Appends new text and reasoning to the reply. The stored lengths decide what is new, so that text of a commit whose
 * confirmation was lost is not appended twice. Also continues a reply that was closed because the lease of its worker
 * had expired.
 * @param from the first of the messages that a pending reply replaces
 */
export function extendReply(
  reply: ReplyProgress,
  known: ReplyRow | undefined,
  written: string,
  packet: PacketLimit,
  from?: ReplyRow,
): { readonly outcome: ProgressOutcome; readonly statements: Statement[] } {
  if (!known) return { outcome: 'gone', statements: [] };
  if (known.status === 'cancelled') return { outcome: 'stopped', statements: [] };
  if (known.status === 'superseded' && !isPending(known)) {
    return { outcome: known.finish_reason === 'cancelled' ? 'stopped' : 'gone', statements: [] };
  }
  const isShown = known.status !== 'superseded';
  // A pending reply whose worker is another one stays hidden: the lease expired, and another revision may have begun.
  const place = isShown ? [] : known.worker === reply.worker ? takePlace(known, from, written) : undefined;
  if (!place || known.status === 'complete') return { outcome: 'saved', statements: [] };
  const extend = (column: TextColumn, stored: number, after: (length: number) => string) => {
    const text = after(stored);
    // endReply() cuts a text that is too long.
    const cannotGrow = stored + text.length > packet.bytes / 3 && isTooLong(after(0), packet);
    return text === '' || cannotGrow ? [] : appendText(reply, column, stored, text, written, packet, isShown);
  };
  const content = extend(CONTENT, known.length ?? 0, (length) => reply.after(length));
  // A pending reply becomes visible with its first text.
  if (!isShown && content.length === 0) return { outcome: 'saved', statements: [] };
  const reasoning = extend(REASONING, known.reasoning_length ?? 0, (length) => reply.reasoningAfter(length));
  return { outcome: 'saved', statements: [...place, ...reasoning, ...content] };
}

function appendText(
  { uid, worker }: ReplyProgress,
  column: TextColumn,
  stored: number,
  text: string,
  written: string,
  packet: PacketLimit,
  isShown: boolean,
): Statement[] {
  const first = firstPart(text, packet);
  const sql = `UPDATE messages SET ${column.text} = CONCAT(COALESCE(${column.text}, ''), ?), ${column.length} = ?,
     status = 'streaming', finish_reason = NULL, worker = ?, updated_at = ?
     WHERE uid = ? AND COALESCE(${column.length}, 0) = ? AND status IN ('streaming', 'incomplete'${isShown ? '' : ", 'superseded'"})`;
  const bindings = [first, stored + first.length, worker, written, uid, stored];
  return [{ sql, bindings }, ...appendRest(uid, text, first.length, stored, packet, column)];
}

/** A failed reply without text and reasoning is not stored. */
export function isEmptyFailure({ content, reasoning, status, finishReason }: Message): boolean {
  return content === '' && !reasoning && status === 'incomplete' && finishReason === 'error';
}

/**
 * The generating worker's text wins, but a cancelled or superseded reply keeps its status.
 * @param from as of {@link extendReply}
 */
export function endReply(
  reply: Message,
  known: ReplyRow,
  written: string,
  packet: PacketLimit,
  from?: ReplyRow,
): { readonly outcome: WriteOutcome; readonly statements: Statement[] } {
  const hasEnded = known.status === 'complete' || (known.status === 'superseded' && hasSucceeded(known));
  if (hasEnded) return { outcome: 'saved', statements: [] };
  // A pending reply that failed before its first text replaces nothing.
  const hasFailed = isEmptyFailure(isPending(known) ? { ...reply, reasoning: null } : reply);
  if (hasFailed) {
    const sql = `DELETE FROM messages WHERE uid = ? AND length = 0 AND status <> 'cancelled'`;
    return { outcome: 'saved', statements: [{ sql, bindings: [reply.uid] }] };
  }
  const { uid, content, reasoning } = reply;
  const first = firstPart(content, packet);
  const stopped = known.status === 'cancelled' || known.finish_reason === 'cancelled';
  const place = isPending(known) ? takePlace(known, from, written) : [];
  const isSuperseded = !place || (known.status === 'superseded' && !isPending(known));
  const sql = `UPDATE messages SET content = ?, length = ?, status = ?, finish_reason = ?, \`usage\` = ?, model = ?,
     worker = NULL, updated_at = ? WHERE uid = ?`;
  const bindings = [
    first,
    first.length,
    isSuperseded ? 'superseded' : stopped ? 'cancelled' : reply.status,
    stopped ? 'cancelled' : reply.finishReason,
    fromUsage(reply.usage),
    fromModel(reply.model),
    written,
    uid,
  ];
  const outcome = stopped && reply.status !== 'cancelled' ? 'stopped' : 'saved';
  const statements = [
    ...(place ?? []),
    { sql, bindings },
    ...appendRest(uid, content, first.length, 0, packet),
  ];
  // The other details were stored with the start.
  if (reply.details?.tool_calls || reply.details?.refusal) statements.push(...endDetails(reply, packet));
  if (reasoning) statements.push(...endReasoning(uid, reasoning, packet));
  return { outcome, statements };
}

/** Neither stopped nor failed. */
function hasSucceeded({ finish_reason }: ReplyRow): boolean {
  return finish_reason !== null && finish_reason !== 'cancelled' && finish_reason !== 'error';
}

function endDetails({ uid, details }: Message, packet: PacketLimit): Statement[] {
  const json = fromDetails(details) ?? '';
  const first = firstPart(json, packet);
  const sql = 'UPDATE messages SET details = ? WHERE uid = ?';
  return [{ sql, bindings: [first, uid] }, ...appendDetails(uid, json, first.length, packet)];
}

function endReasoning(uid: string, reasoning: string, packet: PacketLimit): Statement[] {
  const first = firstPart(reasoning, packet);
  const sql = 'UPDATE messages SET reasoning = ?, reasoning_length = ? WHERE uid = ?';
  const bindings = [first, first.length, uid];
  return [{ sql, bindings }, ...appendRest(uid, reasoning, first.length, 0, packet, REASONING)];
}
