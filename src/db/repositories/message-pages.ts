import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type {
  FoundConversation,
  MessagePage,
  MessageView,
  SequencedMessage,
} from '../../domain/conversations/conversation.ts';
import { conversationNotFound } from '../../domain/errors.ts';
import { toFeedback, toMessage, toTime } from '../core/codec.ts';
import { type Dialect, dialectOf } from '../core/dialect.ts';
import { select } from '../core/errors.ts';
import { FIRST, LAST, type MessageRange, messageOrder, positionOf, readBetween } from '../core/order.ts';
import { MESSAGE_COLUMNS, type MessageRow, type StoredMessage } from '../core/tables.ts';
import { readTexts, shortText, TEXT_BYTES, TEXT_COLUMNS } from '../core/texts.ts';
import { isPending } from '../turns/reply-writes.ts';

/** Messages read by one statement, and the longest texts that it returns of one, bytes. */
const MESSAGE_SLICE = 128;
const LONG = 32 * 1024;
/** SQLite blocks the event loop, and reads a text to find the columns behind it: the first slice, and bytes of a later one. */
const FIRST_SLICE = 16;
const SLICE_BYTES = 8 * 1024 * 1024;
const COLUMNS = columnsWith('');
/** Without the texts of superseded messages, which are not shown. */
const COLUMNS_OF_VISIBLE = columnsWith(`status <> 'superseded' AND`);

/** @param condition of the messages whose texts are read */
function columnsWith(condition: string): string {
  const columns = MESSAGE_COLUMNS.split(', ').map((column) =>
    TEXT_COLUMNS.some((text) => text === column) ? shortText(column, LONG, condition) : column,
  );
  return `${columns.join(', ')}, rating, rating_comment, ${TEXT_BYTES} AS size`;
}

/** The conversation whose messages are read. */
type PageOf = Pick<FoundConversation, 'id' | 'createdAt' | 'epoch'>;

const IS_PRESENT = 'id = ? AND created_at = ? AND epoch = ? AND deleted_at IS NULL';

type Rated = Pick<MessageRow, 'rating' | 'rating_comment'>;
/** Without its texts when they are long. */
type SizedMessage = Omit<StoredMessage, 'content'> & Rated & { content: string | null; size: number };

interface Page {
  readonly rows: readonly SizedMessage[];
  readonly hasMore: boolean;
  readonly statements: number;
}

/** Reads the messages of a conversation in pages. */
export class MessagePages {
  readonly #knex: Knex;
  readonly #dialect: Dialect;

  constructor(knex: Knex) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
  }

  /** See {@link ConversationRepository.messages}. */
  async read(
    conversation: PageOf,
    afterSeq: number,
    limit: number,
    maxBytes: number,
    view: MessageView,
  ): Promise<MessagePage> {
    const { rows, hasMore, statements } = await this.#page(conversation, afterSeq, limit, maxBytes, view);
    const messages = await this.#withTexts(rows);
    // One statement sees the conversation as it was at one time.
    const isOneStatement = statements === 1 && rows.every(({ content }) => content !== null);
    if (rows.length === 0 || !isOneStatement) await this.#requirePresent(conversation);
    return { messages, hasMore };
  }

  async #page(
    conversation: PageOf,
    afterSeq: number,
    limit: number,
    maxBytes: number,
    view: MessageView,
  ): Promise<Page> {
    const rows: SizedMessage[] = [];
    let bytes = 0;
    let [after, until] = boundsOf(afterSeq, view);
    let size = this.#dialect.pooled ? MESSAGE_SLICE : FIRST_SLICE;
    let statements = 0;
    for (let looked = 0; ; ) {
      // As many superseded ones are expected as there were before.
      const expected = ((limit + 1 - rows.length) * (looked || 1)) / (rows.length || 1);
      const wanted = Math.min(size, Math.ceil(expected));
      const slice = await readBetween(after, until, wanted, (range, count) => {
        statements += 1;
        return this.#slice(conversation, range, count, view);
      });
      looked += slice.length;
      for (const row of slice) {
        // Not left out by the statement, which could then look at any number of them.
        if (row.status === 'superseded' && (!view.superseded || hasNotBegun(row))) continue;
        bytes += row.size;
        const isFull = rows.length === limit || (rows.length > 0 && bytes > maxBytes);
        if (isFull) return { rows, hasMore: true, statements };
        rows.push(row);
      }
      const last = slice.at(-1);
      if (!last || slice.length < wanted) return { rows, hasMore: false, statements };
      [after, until] = boundsOf(positionOf(last), view);
      // Any number of superseded messages can come before the next visible one.
      await nextTurn();
      size = this.#dialect.pooled ? MESSAGE_SLICE : sliceAfter(slice);
    }
  }

  /** Without the texts of a long message, so that no statement returns much more than 4 MiB. */
  #slice(
    conversation: PageOf,
    { sql, bindings }: MessageRange,
    limit: number,
    { newestFirst, superseded }: MessageView,
  ): Promise<SizedMessage[]> {
    return select(
      this.#knex,
      `SELECT ${superseded ? COLUMNS : COLUMNS_OF_VISIBLE} FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE conversation_id = ? AND epoch = ? ${sql}
         AND EXISTS (SELECT 1 FROM conversations WHERE ${IS_PRESENT})
       ${messageOrder(newestFirst ? 'DESC' : 'ASC')} LIMIT ?`,
      [conversation.id, conversation.epoch, ...bindings, ...presenceOf(conversation), limit],
    );
  }

  /** @throws AppError `conversation_not_found` when it was deleted, also when its id is in use again */
  async #requirePresent(conversation: PageOf): Promise<void> {
    const sql = `SELECT 1 FROM conversations WHERE ${IS_PRESENT}`;
    const found = await select(this.#knex, sql, presenceOf(conversation));
    if (found.length === 0) throw conversationNotFound();
  }

  /** Without messages that were deleted meanwhile. */
  async #withTexts(rows: readonly SizedMessage[]): Promise<SequencedMessage[]> {
    const ids = rows.filter(({ content }) => content === null).map(({ id }) => id);
    const texts = await readTexts(this.#knex, ids);
    return rows.flatMap(({ size: _, content, rating, rating_comment, ...row }) => {
      const stored = content === null ? texts.get(row.id) : { content };
      if (stored === undefined) return [];
      const feedback = toFeedback(rating, rating_comment);
      return [{ ...toMessage({ ...row, ...stored }), ...(feedback && { feedback }) }];
    });
  }
}

/** A reply that has not taken its place yet, or never will: exports leave it out too. */
function hasNotBegun(row: SizedMessage): boolean {
  return row.role === 'assistant' && row.content === '' && isPending(row);
}

/** How many messages of the same size the next statement may read. */
function sliceAfter(slice: readonly SizedMessage[]): number {
  const mean = slice.reduce((sum, { size }) => sum + size, 0) / slice.length;
  return Math.max(1, Math.min(MESSAGE_SLICE, Math.floor(SLICE_BYTES / Math.max(1, mean))));
}

/** The positions after which and up to which the rest of a view is. */
function boundsOf(seq: number, { newestFirst }: MessageView): [number, number] {
  if (!newestFirst) return [seq, LAST];
  return [FIRST, seq === 0 ? LAST : seq - 1];
}

/** The bindings of IS_PRESENT. */
function presenceOf({ id, createdAt, epoch }: PageOf): [string, string, number] {
  return [id, toTime(createdAt), epoch];
}
