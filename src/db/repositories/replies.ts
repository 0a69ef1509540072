import type { Knex } from 'knex';
import type { ReplyStore, ReplyTail, StoredKey, StoredReply, TailPosition } from '../../domain/chat/turns.ts';
import type { Instant, Message } from '../../domain/conversations/conversation.ts';
import {
  fromDetails,
  toConversation,
  toDetails,
  toFinishReason,
  toMessage,
  toStatus,
  toTime,
  toUsage,
} from '../core/codec.ts';
import { type Dialect, dialectOf, runAll } from '../core/dialect.ts';
import { select, transaction, withReconnect } from '../core/errors.ts';
import {
  CONVERSATION_COLUMNS,
  type IdempotencyKeyRow,
  isUnexpired,
  MESSAGE_COLUMNS,
  type MessageRow,
  type StoredConversation,
  type StoredMessage,
} from '../core/tables.ts';
import { isPending, takePlace } from '../turns/reply-writes.ts';

type TailRow = Pick<
  MessageRow,
  'content' | 'reasoning' | 'status' | 'model' | 'finish_reason' | 'usage' | 'details' | 'worker'
>;

/** Every write here changes nothing when it is repeated. */
export class KnexReplies implements ReplyStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;

  constructor(knex: Knex) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
  }

  async find(uid: string): Promise<StoredReply | null> {
    const [row] = await select<StoredMessage & Pick<MessageRow, 'worker' | 'epoch'>>(
      this.#knex,
      `SELECT ${MESSAGE_COLUMNS}, worker, epoch FROM messages WHERE uid = ? AND role = 'assistant'`,
      [uid],
    );
    if (!row) return null;
    const [conversation] = await select<StoredConversation>(
      this.#knex,
      `SELECT ${CONVERSATION_COLUMNS} FROM conversations WHERE id = ? AND epoch = ? AND deleted_at IS NULL`,
      [row.conversation_id, row.epoch],
    );
    // Deleted, and its rows are not removed yet.
    if (!conversation) return null;
    return {
      message: { ...toMessage(row), ...endOf(row) },
      conversation: toConversation(conversation),
      settling: isSettling(row),
      superseded: row.status === 'superseded' && !isPending(row),
    };
  }

  async tail(uid: string, after: TailPosition): Promise<ReplyTail | null> {
    const [row] = await select<TailRow>(
      this.#knex,
      `SELECT SUBSTR(content, ?) AS content, SUBSTR(reasoning, ?) AS reasoning, m.status, m.model, m.finish_reason,
         m.\`usage\`, details, m.worker
       FROM messages m JOIN conversations c ON c.id = m.conversation_id AND c.epoch = m.epoch
       WHERE m.uid = ? AND c.deleted_at IS NULL`,
      [after.content + 1, after.reasoning + 1, uid],
    );
    if (!row) return null;
    const { content, reasoning, model } = row;
    const [usage, details] = [toUsage(row.usage), toDetails(row.details)];
    return { content, reasoning, settling: isSettling(row), ...endOf(row), model, usage, details };
  }

  /** The row keeps its worker, which sees the cancellation and appends its last text. */
  async cancel(uid: string): Promise<boolean> {
    const [row] = await select<Pick<MessageRow, 'conversation_id' | 'epoch'>>(
      this.#knex,
      'SELECT conversation_id, epoch FROM messages WHERE uid = ?',
      [uid],
    );
    if (!row) return false;
    return withReconnect(() =>
      transaction(this.#knex, async (trx) => {
        // The transaction that ends a reply holds this lock from reading the status to writing it.
        const [locked] = await this.#dialect.lockConversations(trx, [row.conversation_id]);
        if (!locked || locked.deleted_at !== null || locked.epoch !== row.epoch) return false;
        const written = toTime(Date.now());
        await this.#showPending(trx, uid, written);
        const count = await trx('messages')
          .where({ uid, status: 'streaming' })
          .update({ status: 'cancelled', finish_reason: 'cancelled', updated_at: written });
        return count > 0;
      }),
    );
  }

  async noteFollowed({ uid, details }: Pick<Message, 'uid' | 'details'>): Promise<void> {
    const followed = fromDetails({ ...details, followed: true });
    await withReconnect(() =>
      this.#knex('messages').where({ uid, status: 'streaming' }).update({ details: followed }),
    );
  }

  /** A reply without text that is stopped has ended: it takes its place. */
  async #showPending(trx: Knex, uid: string, written: string): Promise<void> {
    const reply = await trx('messages').where({ uid }).first();
    if (!reply?.worker || !isPending(reply)) return;
    const from = toDetails(reply.details)?.supersedes ?? '';
    const place = takePlace(reply, await trx('messages').where({ uid: from }).first(), written);
    if (!place) return;
    await runAll(trx, place);
    await trx('messages').where({ uid }).update({ status: 'streaming' });
  }

  async wasRemovedAlone({ conversationId, timestamp }: Pick<Message, 'conversationId' | 'timestamp'>) {
    // One that was deleted and began anew is younger than the reply.
    const rows = await select<unknown>(
      this.#knex,
      'SELECT 1 FROM conversations WHERE id = ? AND deleted_at IS NULL AND created_at <= ?',
      [conversationId, toTime(timestamp)],
    );
    return rows.length > 0;
  }

  async endedElsewhere(worker: string): Promise<string[]> {
    const rows = await select<{ uid: string }>(
      this.#knex,
      `SELECT uid FROM messages ${this.#dialect.forceIndex('messages_worker')} WHERE worker = ? AND status NOT IN ('streaming', 'superseded')`,
      [worker],
    );
    return rows.map(({ uid }) => uid);
  }

  async key(id: string, activeSince: Instant): Promise<StoredKey | null> {
    const [row] = await select<IdempotencyKeyRow>(
      this.#knex,
      `SELECT k.body_hash, k.conversation_id, k.question_uid, k.reply_uid, k.cached FROM idempotency_keys k
       JOIN conversations c ON c.id = k.conversation_id AND c.epoch = k.epoch
       WHERE k.id = ? AND c.deleted_at IS NULL AND ${isUnexpired('c')}`,
      [id, toTime(activeSince)],
    );
    if (!row) return null;
    return {
      bodyHash: row.body_hash,
      cached: row.cached === 1,
      conversationId: row.conversation_id,
      questionId: row.question_uid,
      replyId: row.reply_uid,
    };
  }
}

/** The status and finish reason of a stream, which does not matter for whether its reply was superseded. */
function endOf(
  row: Pick<MessageRow, 'status' | 'finish_reason' | 'worker'>,
): Pick<Message, 'status' | 'finishReason'> {
  const finishReason = toFinishReason(row.finish_reason);
  if (row.status !== 'superseded') return { status: toStatus(row.status), finishReason };
  if (isPending(row)) return row.worker ? { status: 'streaming', finishReason } : FAILED;
  if (finishReason === 'cancelled') return { status: 'cancelled', finishReason };
  const isCut = finishReason === 'error' || finishReason === 'length';
  return { status: isCut ? 'incomplete' : 'complete', finishReason };
}

const FAILED = { status: 'incomplete', finishReason: 'error' } as const;

/** Stopped, but its worker has not written the last text yet. */
function isSettling({ status, worker }: Pick<MessageRow, 'status' | 'worker'>): boolean {
  return status === 'cancelled' && worker !== null;
}
