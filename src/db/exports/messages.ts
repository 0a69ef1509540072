import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { ExportMessage, ExportScope } from '../../domain/exports/exports.ts';
import { type Dialect, dialectOf, placeholders } from '../core/dialect.ts';
import { withReconnect } from '../core/errors.ts';
import type { MessageRow } from '../core/tables.ts';
import { isFiltered, messageFilter } from './filters.ts';
import { isoOf } from './times.ts';

export type MessageBody = Pick<
  MessageRow,
  'id' | 'uid' | 'conversation_id' | 'role' | 'timestamp' | 'status'
> & {
  /** Null: longer than LONG_CONTENT. */
  content: string | null;
  size: number;
};
type LoadedMessage = MessageBody & { content: string };

/** The last message of a window: what one statement looks at. */
type WindowEnd = Pick<MessageRow, 'id' | 'conversation_id'>;

export interface MessageCounts {
  conversations: number;
  messages: number;
}

/**
 * A streaming reply without text may still be removed, and an incremental export could not report that. Not tested
 * when counting, so that an index suffices. SQLite knows the length in bytes without reading the content.
 */
const HAS_TEXT = `(status <> 'streaming' OR OCTET_LENGTH(content) > 0)`;
/** Messages per query: small enough that a page is collected as young garbage. */
const PAGE = 700;
/** On SQLite the writer shares the connection. */
const PAGE_ON_ONE_CONNECTION = 300;
/** Longer contents are read in batches of LONG_BATCH bytes, so that pages are small in bytes too. */
const LONG_CONTENT = 8192;
const LONG_BATCH = 1_000_000;
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
  async firstCut(scope: ExportScope, conversations: readonly string[]): Promise<string | null> {
    const end = await this.#readEnd(scope, conversations, 0);
    return end?.conversation_id ?? null;
  }

  /** One page of the messages after `afterSeq`, by conversation and age. */
  messagePage(
    scope: ExportScope,
    conversations: readonly string[],
    afterSeq: number,
  ): Promise<MessageBody[]> {
    const { sql, bindings } = messageFilter(scope);
    return this.#select<MessageBody>(
      `SELECT id, uid, conversation_id, role, timestamp, status, OCTET_LENGTH(content) AS size,
         CASE WHEN OCTET_LENGTH(content) <= ${LONG_CONTENT} THEN content END AS content
       FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE conversation_id IN (${placeholders(conversations.length)}) AND id > ? AND ${HAS_TEXT} ${sql}
       ORDER BY conversation_id, id LIMIT ?`,
      [...conversations, afterSeq, ...bindings, this.pageSize],
    );
  }

  /** All messages of a conversation of more than a page. */
  async *pagesOf(scope: ExportScope, conversation: string): AsyncGenerator<ExportMessage[]> {
    for (let after = 0; ; ) {
      const end = await this.#readEnd(scope, [conversation], after);
      const window = end ? { ...scope, lastSeq: end.id } : scope;
      const rows = await this.messagePage(window, [conversation], after);
      yield* this.withContents(rows);
      const last = rows.length < this.pageSize ? end : rows.at(-1);
      if (!last) return;
      after = last.id;
      await nextTurn();
    }
  }

  /** Counts the messages, and the conversations that have any of them. */
  async count(scope: ExportScope, conversations: readonly string[]): Promise<MessageCounts> {
    const total = { conversations: 0, messages: 0 };
    for (let left = conversations.toSorted(); left.length > 0; ) {
      const end = await this.#countEnd(scope, left, 0);
      const counted = end ? left.filter((id) => id < end.conversation_id) : left;
      const [first] = left;
      if (counted.length > 0) {
        const found = await this.#count(scope, counted, 0);
        total.conversations += found.conversations;
        total.messages += found.messages;
        left = left.slice(counted.length);
      } else if (first !== undefined) {
        const messages = await this.#countOne(scope, first);
        total.conversations += messages > 0 ? 1 : 0;
        total.messages += messages;
        left = left.slice(1);
      }
      await nextTurn();
    }
    return total;
  }

  /** Counts the messages of a conversation of more than a window. */
  async #countOne(scope: ExportScope, conversation: string): Promise<number> {
    let messages = 0;
    for (let after = 0; ; ) {
      const end = await this.#countEnd(scope, [conversation], after);
      const window = end ? { ...scope, lastSeq: end.id } : scope;
      messages += (await this.#count(window, [conversation], after)).messages;
      if (!end) return messages;
      after = end.id;
      await nextTurn();
    }
  }

  async #count(
    scope: ExportScope,
    conversations: readonly string[],
    afterSeq: number,
  ): Promise<MessageCounts> {
    const { sql, bindings } = messageFilter(scope);
    const [row] = await this.#select<MessageCounts>(
      `SELECT COUNT(DISTINCT conversation_id) AS conversations, COUNT(*) AS messages
       FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE conversation_id IN (${placeholders(conversations.length)}) AND id > ? ${sql}`,
      [...conversations, afterSeq, ...bindings],
    );
    return row ?? { conversations: 0, messages: 0 };
  }

  /** Where a statement that reads messages has to end; null: it can read all. */
  #readEnd(scope: ExportScope, conversations: readonly string[], afterSeq: number) {
    if (!this.#dialect.pooled) return this.#endBySize(scope, conversations, afterSeq);
    // Without a filter the LIMIT of the page suffices.
    return isFiltered(scope)
      ? this.#endByIndex(scope, conversations, afterSeq, this.#windowSize)
      : Promise.resolve(null);
  }

  /** Where a statement that counts messages has to end; null: it can count all. */
  #countEnd(scope: ExportScope, conversations: readonly string[], afterSeq: number) {
    return isFiltered(scope)
      ? this.#readEnd(scope, conversations, afterSeq)
      : this.#endByIndex(scope, conversations, afterSeq, this.pageSize * COUNT_PAGES);
  }

  async #endByIndex(
    { lastSeq }: ExportScope,
    conversations: readonly string[],
    afterSeq: number,
    rows: number,
  ): Promise<WindowEnd | null> {
    const [end] = await this.#select<WindowEnd>(
      `SELECT conversation_id, id FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE conversation_id IN (${placeholders(conversations.length)}) AND id > ? AND id <= ?
       ORDER BY conversation_id, id LIMIT 1 OFFSET ?`,
      [...conversations, afterSeq, lastSeq, rows - 1],
    );
    return end ?? null;
  }

  /** At least one message, and not more than WINDOW_BYTES unless it is one. */
  async #endBySize(
    { lastSeq }: ExportScope,
    conversations: readonly string[],
    afterSeq: number,
  ): Promise<WindowEnd | null> {
    const rows = await this.#select<WindowEnd & { size: number }>(
      `SELECT conversation_id, id, OCTET_LENGTH(content) AS size FROM messages
       WHERE conversation_id IN (${placeholders(conversations.length)}) AND id > ? AND id <= ?
       ORDER BY conversation_id, id LIMIT ?`,
      [...conversations, afterSeq, lastSeq, this.#windowSize],
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
    const found = await this.#select<{ id: number; content: string }>(
      `SELECT id, content FROM messages WHERE id IN (${placeholders(long.length)})`,
      long,
    );
    const contents = new Map(found.map(({ id, content }) => [id, content]));
    return loaded(rows.map((row) => ({ ...row, content: row.content ?? contents.get(row.id) ?? null })));
  }

  #select<Row>(sql: string, bindings: readonly (string | number)[]): Promise<Row[]> {
    return withReconnect(() => this.#dialect.select<Row>(this.#knex, sql, bindings));
  }
}

/** The messages whose content is loaded. */
export function loaded(rows: readonly MessageBody[]): ExportMessage[] {
  return rows.filter(hasContent).map(({ uid, role, content, timestamp, status }) => {
    return { uid, role, content, timestamp: isoOf(timestamp), status };
  });
}

export function hasContent(row: MessageBody): row is LoadedMessage {
  return row.content !== null;
}
