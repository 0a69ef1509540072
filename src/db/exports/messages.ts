import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { Counts } from '../../domain/conversations/conversation.ts';
import type { ExportMessage, MessageExtras } from '../../domain/exports/exports.ts';
import { toDetails, toFeedback } from '../core/codec.ts';
import { type Dialect, dialectOf } from '../core/dialect.ts';
import { select } from '../core/errors.ts';
import {
  endOf,
  FIRST,
  firstRange,
  type MessageRange,
  messageOrder,
  messagesOf,
  positionOf,
} from '../core/order.ts';
import type { ConversationRow, MessageRow } from '../core/tables.ts';
import { readTexts, shortText, TEXT_BYTES, TEXT_COLUMNS } from '../core/texts.ts';
import { isFiltered, messageFilter, type PageScope } from './filters.ts';
import { isoOf } from './times.ts';

export type MessageBody = Pick<
  MessageRow,
  | 'id'
  | 'seq'
  | 'uid'
  | 'conversation_id'
  | 'role'
  | 'timestamp'
  | 'status'
  | 'epoch'
  | 'reply_to'
  | 'model'
  | 'finish_reason'
  | 'usage'
  | 'reasoning'
  | 'details'
  | 'rating'
  | 'rating_comment'
> & {
  /** Null: with reasoning and details, which are then null too, longer than LONG_CONTENT. */
  content: string | null;
  size: number;
};
type LoadedMessage = MessageBody & { content: string };

/** The conversation whose messages are read: those of its epoch, and of more than a page those up to its `last_seq`. */
type ExportedConversation = Pick<ConversationRow, 'id' | 'epoch' | 'last_seq'>;

/** The last message of a window: what one statement looks at. */
type WindowEnd = Pick<MessageRow, 'id' | 'seq' | 'conversation_id'>;

/**
 * A reply without text that is streaming, or has not taken its place, may still be removed, and an incremental export
 * could not report that. Not tested when counting, so that an index suffices. SQLite knows the length in bytes without
 * reading the content.
 */
const HAS_TEXT = `(OCTET_LENGTH(content) > 0 OR NOT (status = 'streaming'
  OR (status = 'superseded' AND role = 'assistant' AND finish_reason IS NULL)))`;
/** Messages per query: small enough that a page is collected as young garbage. */
const PAGE = 700;
/** On SQLite the writer shares the connection. */
const PAGE_ON_ONE_CONNECTION = 300;
const ALL = firstRange(FIRST);
/** Longer contents are read in batches of LONG_BATCH bytes, so that pages are small in bytes too. */
const LONG_CONTENT = 8192;
const LONG_BATCH = 1_000_000;
const SHORT_TEXTS = TEXT_COLUMNS.map((column) => shortText(column, LONG_CONTENT)).join(', ');
/** Pages that one statement looks at in rows: a LIMIT counts matches, and a filter may leave out most of them. */
const WINDOW_PAGES = 3;
const WINDOW_PAGES_POOLED = 7;
/** The same when an index suffices. */
const COUNT_PAGES = 20;
/** On SQLite columns behind a long content are found by reading through it. */
const WINDOW_BYTES = 8_000_000;

/** Reads the messages of exports. Raw SQL: `npm run bench:export` measures this path. */
export class MessageReader {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly pageSize: number;
  readonly #windowSize: number;

  /** @param pageSize messages per query */
  constructor(knex: Knex, pageSize?: number) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.pageSize = pageSize ?? (this.#dialect.pooled ? PAGE : PAGE_ON_ONE_CONNECTION);
    this.#windowSize = this.pageSize * (this.#dialect.pooled ? WINDOW_PAGES_POOLED : WINDOW_PAGES);
  }

  /**
   * The first conversation, by id, whose messages one statement cannot read together with those of the conversations
   * before it; null when there is none.
   */
  async firstCut(scope: PageScope, conversations: readonly ExportedConversation[]): Promise<string | null> {
    const end = await this.#readEnd(scope, conversations, ALL);
    return end?.conversation_id ?? null;
  }

  /**
   * One page of the messages of a range, by conversation and in their order. Some can be of another epoch: a LIMIT on
   * the visible ones could look at all messages of deleted conversations.
   */
  messagePage(
    scope: PageScope,
    conversations: readonly ExportedConversation[],
    range: MessageRange = ALL,
  ): Promise<MessageBody[]> {
    const of = messagesOf(conversations);
    const { sql, bindings } = messageFilter(scope);
    return select<MessageBody>(
      this.#knex,
      `SELECT id, seq, uid, conversation_id, role, timestamp, status, epoch, reply_to, model, finish_reason, \`usage\`, rating,
         rating_comment, ${TEXT_BYTES} AS size, ${SHORT_TEXTS}
       FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE ${of.sql} ${range.sql} AND ${HAS_TEXT} ${sql} ${messageOrder()} LIMIT ?`,
      [...of.bindings, ...range.bindings, ...bindings, this.pageSize],
    );
  }

  /** All messages of a conversation of more than a page. */
  async *pagesOf(scope: PageScope, conversation: ExportedConversation): AsyncGenerator<ExportMessage[]> {
    const until = endOf(conversation);
    for (let after = FIRST; after < until; ) {
      const range = firstRange(after, until);
      const end = await this.#readEnd(scope, [conversation], range);
      const window = end ? firstRange(after, positionOf(end)) : range;
      const rows = await this.messagePage(scope, [conversation], window);
      yield* this.withContents(rows);
      const last = rows.length < this.pageSize ? undefined : rows.at(-1);
      after = last ? positionOf(last) : window.until;
      await nextTurn();
    }
  }

  /** Counts the visible messages, and the conversations that have any of them. */
  async count(scope: PageScope, conversations: readonly ExportedConversation[]): Promise<Counts> {
    const total = { conversations: 0, messages: 0 };
    for (const group of Map.groupBy(conversations, ({ epoch }) => epoch).values()) {
      for await (const found of this.#counts(scope, group)) add(total, found);
    }
    return total;
  }

  /** The counts of disjoint groups of the conversations, which have the same epoch. */
  async *#counts(scope: PageScope, conversations: readonly ExportedConversation[]): AsyncGenerator<Counts> {
    for (let left = conversations.toSorted((a, b) => (a.id < b.id ? -1 : 1)); left.length > 0; ) {
      const end = await this.#countEnd(scope, left, ALL);
      const counted = end ? left.filter(({ id }) => id < end.conversation_id) : left;
      const [first] = left;
      if (counted.length > 0) yield await this.#count(scope, counted, ALL);
      else if (first) yield await this.#countOne(scope, first);
      left = left.slice(Math.max(1, counted.length));
      await nextTurn();
    }
  }

  /** Counts the messages of a conversation of more than a window. */
  async #countOne(scope: PageScope, conversation: ExportedConversation): Promise<Counts> {
    const total = { conversations: 0, messages: 0 };
    const until = endOf(conversation);
    for (let after = FIRST; after < until; ) {
      const range = firstRange(after, until);
      const end = await this.#countEnd(scope, [conversation], range);
      const window = end ? firstRange(after, positionOf(end)) : range;
      add(total, await this.#count(scope, [conversation], window));
      after = window.until;
      await nextTurn();
    }
    return { ...total, conversations: Math.min(1, total.conversations) };
  }

  async #count(
    scope: PageScope,
    conversations: readonly ExportedConversation[],
    range: MessageRange,
  ): Promise<Counts> {
    const of = messagesOf(conversations);
    const { sql, bindings } = messageFilter(scope);
    const [row] = await select<Counts>(
      this.#knex,
      `SELECT COUNT(DISTINCT conversation_id) AS conversations, COUNT(*) AS messages
       FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE ${of.sql} ${range.sql} ${sql}`,
      [...of.bindings, ...range.bindings, ...bindings],
    );
    return row ?? { conversations: 0, messages: 0 };
  }

  /** Where a statement that reads messages has to end; null: it can read all. */
  #readEnd(scope: PageScope, conversations: readonly ExportedConversation[], range: MessageRange) {
    if (!this.#dialect.pooled) return this.#endBySize(conversations, range);
    // Without a filter the LIMIT of the page suffices.
    return isFiltered(scope)
      ? this.#endByIndex(conversations, range, this.#windowSize)
      : Promise.resolve(null);
  }

  /** Where a statement that counts messages has to end; null: it can count all. */
  #countEnd(scope: PageScope, conversations: readonly ExportedConversation[], range: MessageRange) {
    return isFiltered(scope)
      ? this.#readEnd(scope, conversations, range)
      : this.#endByIndex(conversations, range, this.pageSize * COUNT_PAGES);
  }

  async #endByIndex(
    conversations: readonly ExportedConversation[],
    range: MessageRange,
    rows: number,
  ): Promise<WindowEnd | null> {
    const of = messagesOf(conversations);
    const [end] = await select<WindowEnd>(
      this.#knex,
      `SELECT conversation_id, seq, id FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE ${of.sql} ${range.sql} ${messageOrder()} LIMIT 1 OFFSET ?`,
      [...of.bindings, ...range.bindings, rows - 1],
    );
    return end ?? null;
  }

  /** At least one message, and not more than WINDOW_BYTES unless it is one. */
  async #endBySize(
    conversations: readonly ExportedConversation[],
    range: MessageRange,
  ): Promise<WindowEnd | null> {
    const of = messagesOf(conversations);
    const rows = await select<WindowEnd & { size: number }>(
      this.#knex,
      `SELECT conversation_id, seq, id, ${TEXT_BYTES} AS size FROM messages
       WHERE ${of.sql} ${range.sql} ${messageOrder()} LIMIT ?`,
      [...of.bindings, ...range.bindings, this.#windowSize],
    );
    let bytes = 0;
    const tooMuch = rows.findIndex(({ size }) => {
      bytes += size;
      return bytes > WINDOW_BYTES;
    });
    if (tooMuch >= 0) return rows[Math.max(0, tooMuch - 1)] ?? null;
    return rows.length < this.#windowSize ? null : (rows.at(-1) ?? null);
  }

  /** The messages with their long contents, in batches. Messages deleted meanwhile are left out. */
  async *withContents(rows: readonly MessageBody[]): AsyncGenerator<ExportMessage[]> {
    let batch: MessageBody[] = [];
    let size = 0;
    for (const row of rows) {
      if (row.content === null && size > 0 && size + row.size > LONG_BATCH) {
        yield await this.#loadContents(batch);
        batch = [];
        size = 0;
      }
      batch.push(row);
      if (row.content === null) size += row.size;
    }
    yield await this.#loadContents(batch);
  }

  async #loadContents(rows: readonly MessageBody[]): Promise<ExportMessage[]> {
    const long = rows.filter(({ content }) => content === null).map(({ id }) => id);
    if (long.length === 0) return loaded(rows);
    const texts = await readTexts(this.#knex, long);
    return loaded(rows.map((row) => (row.content === null ? { ...row, ...texts.get(row.id) } : row)));
  }
}

function add(total: Counts, { conversations, messages }: Counts): void {
  total.conversations += conversations;
  total.messages += messages;
}

/** The messages whose content is loaded. */
export function loaded(rows: readonly MessageBody[]): ExportMessage[] {
  return rows.filter(hasContent).map((row) => {
    const { uid, role, content, timestamp, status, reply_to: replyTo } = row;
    const message = { uid, role, content, timestamp: isoOf(timestamp), status, replyTo };
    return hasExtras(row) ? { ...message, more: extrasOf(row) } : message;
  });
}

function hasExtras({ model, finish_reason, usage, reasoning, details, rating }: LoadedMessage): boolean {
  // Usually the first one decides: replies have a model, questions have nothing.
  return (model ?? finish_reason ?? usage ?? reasoning ?? details ?? rating) !== null;
}

function extrasOf(row: LoadedMessage): MessageExtras {
  const { model, finish_reason: finishReason, usage, reasoning } = row;
  // The rating of a question is that of its replies.
  const feedback = row.role === 'assistant' ? toFeedback(row.rating, row.rating_comment) : null;
  return { model, finishReason, usage, reasoning, details: toDetails(row.details), feedback };
}

export function hasContent(row: MessageBody): row is LoadedMessage {
  return row.content !== null;
}
