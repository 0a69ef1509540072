import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { ExportMessage, ExportScope } from '../../domain/exports/exports.ts';
import { type Dialect, dialectOf, placeholders } from '../core/dialect.ts';
import { withReconnect } from '../core/errors.ts';
import type { MessageRow } from '../core/tables.ts';
import { messageFilter } from './filters.ts';
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

/**
 * A streaming reply without text may still be removed, and an incremental export could not report that. Not tested
 * when counting, so that an index suffices.
 */
const HAS_TEXT = `(status <> 'streaming' OR LENGTH(content) > 0)`;
/** Messages per query: small enough that a page is collected as young garbage. */
const PAGE = 700;
/** On SQLite the writer shares the connection. */
const PAGE_ON_ONE_CONNECTION = 300;
/** Longer contents are read in batches of LONG_BATCH bytes, so that pages are small in bytes too. */
const LONG_CONTENT = 8192;
const LONG_BATCH = 1_000_000;

/** Reads the messages of exports. Raw SQL: `npm run bench:export` measures this path. */
export class MessageReader {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly pageSize: number;

  /** @param pageSize messages per query */
  constructor(knex: Knex, pageSize?: number) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.pageSize = pageSize ?? (this.#dialect.pooled ? PAGE : PAGE_ON_ONE_CONNECTION);
  }

  /** One page of the messages after `afterSeq`, by conversation and age. */
  messagePage(
    scope: ExportScope,
    conversations: readonly string[],
    afterSeq: number,
  ): Promise<MessageBody[]> {
    const { sql, bindings } = messageFilter(scope);
    return this.#select<MessageBody>(
      `SELECT id, uid, conversation_id, role, timestamp, status, LENGTH(content) AS size,
         CASE WHEN LENGTH(content) <= ${LONG_CONTENT} THEN content END AS content
       FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE conversation_id IN (${placeholders(conversations.length)}) AND id > ? AND ${HAS_TEXT} ${sql}
       ORDER BY conversation_id, id LIMIT ?`,
      [...conversations, afterSeq, ...bindings, this.pageSize],
    );
  }

  /** All messages of a conversation of more than a page. */
  async *pagesOf(scope: ExportScope, conversation: string): AsyncGenerator<ExportMessage[]> {
    for (let after = 0; ; ) {
      const rows = await this.messagePage(scope, [conversation], after);
      yield* this.withContents(rows);
      const last = rows.at(-1);
      if (!last || rows.length < this.pageSize) return;
      after = last.id;
      await nextTurn();
    }
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
