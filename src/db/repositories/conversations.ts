import type { Knex } from 'knex';
import { type Access, canAccess } from '../../domain/access/access.ts';
import { ContextTurns } from '../../domain/conversations/context.ts';
import type {
  Conversation,
  ConversationCursor,
  ConversationRepository,
  FoundConversation,
  HistoryMessage,
  Instant,
  MessagePage,
  RevisedMessage,
  SequencedMessage,
} from '../../domain/conversations/conversation.ts';
import type { PendingDeletion } from '../../domain/conversations/purge.ts';
import { conversationNotFound } from '../../domain/errors.ts';
import { toConversation, toMessage, toTime } from '../core/codec.ts';
import { type Dialect, dialectOf } from '../core/dialect.ts';
import { databaseUnavailable, toAppError, transaction, withReconnect } from '../core/errors.ts';
import { pendingMigrations } from '../core/migrations.ts';
import {
  CONVERSATION_COLUMNS,
  type ConversationRow,
  MESSAGE_COLUMNS,
  type MessageRow,
  type StoredConversation,
  type StoredMessage,
} from '../core/tables.ts';
import { hideConversations, removeDeleted } from './deletions.ts';

type HistoryRow = Pick<MessageRow, 'id' | 'uid' | 'role' | 'content' | 'status' | 'reply_to'> &
  Pick<ConversationRow, 'owner'>;

/** Messages read by one statement, and the longest content that it returns, bytes. */
const MESSAGE_SLICE = 128;
const LONG_CONTENT = 32 * 1024;

/** The conversation whose messages are read. */
type PageOf = Pick<FoundConversation, 'id' | 'createdAt' | 'epoch'>;

const IS_PRESENT = 'id = ? AND created_at = ? AND epoch = ? AND deleted_at IS NULL';

type SizedMessage = Omit<StoredMessage, 'content'> & { content: string | null; size: number };

/** Where a list without a cursor begins; ids are hexadecimal, so every one of them sorts before g. */
const LAST_TIME = toTime(Number.POSITIVE_INFINITY);
const AFTER_EVERY_ID = 'g';
/** How long a deletion removes rows before it returns; the rest is removed in the background. */
const REMOVE_MS = 300;

export class KnexConversations implements ConversationRepository {
  readonly #knex: Knex;
  readonly #dialect: Dialect;

  constructor(knex: Knex) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
  }

  async find(id: string): Promise<FoundConversation | null> {
    const [row] = await this.#select<StoredConversation & Pick<ConversationRow, 'epoch'>>(
      `SELECT ${CONVERSATION_COLUMNS}, epoch FROM conversations WHERE id = ? AND deleted_at IS NULL`,
      [id],
    );
    return row ? { ...toConversation(row), epoch: row.epoch } : null;
  }

  /**
   * Reads back from the newest message and pairs here: nearly always one short index scan, where a join of questions
   * and replies would need one more index on the hottest table.
   */
  async history(
    id: string,
    access: Access,
    limit: number,
    activeSince: Instant,
    except?: string,
    newest = Number.MAX_SAFE_INTEGER,
  ): Promise<HistoryMessage[]> {
    const turns = new ContextTurns(limit, except);
    let page = limit;
    let before = newest;
    while (!turns.full) {
      const rows = await this.#newestFirst(id, page, before, activeSince);
      if (rows[0] && !canAccess(access, rows[0].owner)) throw conversationNotFound();
      for (const { reply_to: replyTo, ...row } of rows) turns.addOlder({ ...row, replyTo });
      const oldest = rows.at(-1);
      if (!oldest || rows.length < page) break;
      before = oldest.id;
      page = Math.min(2 * page, 1000);
    }
    return turns.context();
  }

  async revised(id: string, uid: string): Promise<RevisedMessage | null> {
    const conversation = await this.find(id);
    if (!conversation) return null;
    const message = await this.#message(conversation, uid);
    const questionId = message?.role === 'assistant' ? message.replyTo : undefined;
    const question = questionId ? await this.#message(conversation, questionId) : message;
    return { conversation, message, question };
  }

  async #message({ id, epoch }: FoundConversation, uid: string): Promise<SequencedMessage | null> {
    const [row] = await this.#select<StoredMessage>(
      `SELECT ${MESSAGE_COLUMNS} FROM messages WHERE uid = ? AND conversation_id = ? AND epoch = ?`,
      [uid, id, epoch],
    );
    return row ? toMessage(row) : null;
  }

  async messages(
    conversation: PageOf,
    afterSeq: number,
    limit: number,
    maxBytes: number,
  ): Promise<MessagePage> {
    const { rows, hasMore } = await this.#sizedPage(conversation, afterSeq, limit, maxBytes);
    const messages = await this.#withContents(rows);
    // Those are one statement, which sees the conversation as it was at one time.
    const isOneStatement = rows.length < MESSAGE_SLICE && rows.every(({ content }) => content !== null);
    if (rows.length === 0 || !isOneStatement) await this.#requirePresent(conversation);
    return { messages, hasMore };
  }

  async #sizedPage(
    conversation: PageOf,
    afterSeq: number,
    limit: number,
    maxBytes: number,
  ): Promise<{ rows: SizedMessage[]; hasMore: boolean }> {
    const rows: SizedMessage[] = [];
    let bytes = 0;
    for (let after = afterSeq; ; ) {
      const wanted = Math.min(MESSAGE_SLICE, limit + 1 - rows.length);
      const slice = await this.#sized(conversation, after, wanted);
      for (const row of slice) {
        bytes += row.size;
        if (rows.length === limit || (rows.length > 0 && bytes > maxBytes)) return { rows, hasMore: true };
        rows.push(row);
        after = row.id;
      }
      if (slice.length < wanted) return { rows, hasMore: false };
    }
  }

  /** The next messages; the content of a long one is left out, so that no statement returns much more than 4 MiB. */
  #sized(conversation: PageOf, after: number, limit: number): Promise<SizedMessage[]> {
    return this.#select(
      `SELECT ${MESSAGE_COLUMNS.replace('content', `CASE WHEN OCTET_LENGTH(content) <= ${LONG_CONTENT} THEN content END AS content`)},
         OCTET_LENGTH(content) AS size
       FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE conversation_id = ? AND id > ? AND status <> 'superseded'
         AND epoch = (SELECT epoch FROM conversations WHERE ${IS_PRESENT})
       ORDER BY id LIMIT ?`,
      [conversation.id, after, ...presenceOf(conversation), limit],
    );
  }

  /** @throws AppError `conversation_not_found` when it was deleted, also when its id is in use again */
  async #requirePresent(conversation: PageOf): Promise<void> {
    const sql = `SELECT 1 FROM conversations WHERE ${IS_PRESENT}`;
    const found = await this.#select(sql, presenceOf(conversation));
    if (found.length === 0) throw conversationNotFound();
  }

  /** Without messages that were deleted meanwhile. */
  async #withContents(rows: readonly SizedMessage[]): Promise<SequencedMessage[]> {
    const ids = rows.filter(({ content }) => content === null).map(({ id }) => id);
    const long = ids.length === 0 ? [] : await this.#contents(ids);
    const contents = new Map(long.map(({ id, content }) => [id, content]));
    return rows.flatMap(({ size: _, ...row }) => {
      const content = row.content ?? contents.get(row.id);
      return content === undefined ? [] : [toMessage({ ...row, content })];
    });
  }

  #contents(ids: readonly number[]): Promise<Pick<MessageRow, 'id' | 'content'>[]> {
    return this.#select(
      `SELECT id, content FROM messages WHERE id IN (${ids.map(() => '?').join(', ')})`,
      ids,
    );
  }

  async list(
    access: Access,
    limit: number,
    before: ConversationCursor | null,
    activeSince: Instant,
  ): Promise<Conversation[]> {
    const until = before ? toTime(before.lastActive) : LAST_TIME;
    const [index, theirs, owner] = access.unrestricted
      ? ['conversations_last_active', '', []]
      : ['conversations_owner_last_active', 'owner = ? AND', [access.owner ?? '']];
    const rows = await this.#select<StoredConversation>(
      `SELECT ${CONVERSATION_COLUMNS} FROM conversations ${this.#dialect.forceIndex(index)}
       WHERE ${theirs} deleted_at IS NULL AND last_active >= ? AND last_active <= ? AND (last_active < ? OR id < ?)
       ORDER BY last_active DESC, id DESC LIMIT ?`,
      [...owner, toTime(activeSince), until, until, before?.id ?? AFTER_EVERY_ID, limit],
    );
    return rows.map(toConversation);
  }

  /** Not tried again when the connection broke: the second try would say that there was none. */
  async delete(id: string, access: Access): Promise<boolean> {
    const deletions = await this.#hide(id, access);
    if (deletions.length === 0) return false;
    const started = performance.now();
    const isStopped = () => performance.now() - started > REMOVE_MS;
    // It is deleted, whether its rows are removed now or later.
    await removeDeleted(this.#knex, deletions, { isStopped }).catch(() => false);
    return true;
  }

  async check(): Promise<void> {
    const pending = await withReconnect(() => pendingMigrations(this.#knex));
    if (pending.length > 0) {
      const detail = 'The schema of the database is older than this version: run npm run migrate';
      throw databaseUnavailable(`pending migrations: ${pending.join(', ')}`, detail);
    }
  }

  async #hide(id: string, access: Access): Promise<PendingDeletion[]> {
    try {
      return await transaction(this.#knex, async (trx) => {
        const [found] = await this.#dialect.lockConversations(trx, [id]);
        if (!found || found.deleted_at !== null || !canAccess(access, found.owner)) return [];
        return hideConversations(trx, [id], Date.now());
      });
    } catch (error) {
      throw toAppError(error);
    }
  }

  #newestFirst(id: string, limit: number, before: number, activeSince: Instant): Promise<HistoryRow[]> {
    return this.#select(
      `SELECT m.id, m.uid, m.role, m.content, m.status, m.reply_to, c.owner
       FROM conversations c JOIN messages m ${this.#dialect.forceIndex('messages_conversation')} ON m.conversation_id = c.id
         AND m.epoch = c.epoch
       WHERE c.id = ? AND c.deleted_at IS NULL AND c.last_active >= ? AND m.id < ? AND m.status <> 'superseded'
       ORDER BY m.id DESC LIMIT ?`,
      [id, toTime(activeSince), before, limit],
    );
  }

  #select<Row>(sql: string, bindings: readonly (string | number)[]): Promise<Row[]> {
    return withReconnect(() => this.#dialect.select<Row>(this.#knex, sql, bindings));
  }
}

/** The bindings of IS_PRESENT. */
function presenceOf({ id, createdAt, epoch }: PageOf): [string, string, number] {
  return [id, toTime(createdAt), epoch];
}
