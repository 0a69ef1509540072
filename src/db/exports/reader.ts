import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversation.ts';
import type {
  ExportConversation,
  ExportCursor,
  ExportDeletion,
  ExportFilter,
  ExportMessage,
  ExportPart,
  ExportPosition,
  ExportScope,
  ExportSource,
} from '../../domain/exports.ts';
import { fromTime, toTime } from '../core/codec.ts';
import { type Dialect, dialectOf, placeholders } from '../core/dialect.ts';
import { withReconnect } from '../core/errors.ts';
import type { ConversationRow, MessageRow } from '../core/tables.ts';
import { isFiltered, messageFilter, SETTLED_MS, sinceFilter } from './filters.ts';
import { oneAhead } from './prefetch.ts';

type HeadRow = Pick<ConversationRow, 'id' | 'created_at' | 'last_active'>;
type BodyRow = Pick<MessageRow, 'id' | 'uid' | 'conversation_id' | 'role' | 'timestamp' | 'status'> & {
  /** Null: too long to come along. */
  content: string | null;
  size: number;
};
type WholeRow = BodyRow & { content: string };

const CONVERSATIONS = 500;
const CURSOR_PAGE = 1000;
/**
 * A reply that has not said a word may yet leave without one, and nobody could be told of that. Not asked where only
 * numbers are wanted, which an index tells without a look at contents.
 */
const BEGUN = `(status <> 'streaming' OR LENGTH(content) > 0)`;
/** Messages per query: so few that what is read is garbage before V8 makes room for more of it. */
const PAGE = 700;
/** Few, because the writer shares the connection. */
const PAGE_ON_ONE_CONNECTION = 300;
/** Longer contents are fetched apart, so that a page is small in bytes too. */
const LONG_CONTENT = 8192;
/** Bytes of long contents in memory at once, at least one content. */
const LONG_BATCH = 1_000_000;

export class KnexExportSource implements ExportSource {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #page: number;

  /** @param page messages per query */
  constructor(knex: Knex, page?: number) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.#page = page ?? (this.#dialect.pooled ? PAGE : PAGE_ON_ONE_CONNECTION);
  }

  async scope(
    filter: ExportFilter,
    conversationId: string | null,
    activeSince: Instant,
    since: ExportCursor | null = null,
  ): Promise<ExportScope> {
    const [row] = await this.#select<{ seq: number | null; created: string | null }>(
      `SELECT (SELECT MAX(id) FROM messages) AS seq, (SELECT MAX(created_at) FROM conversations) AS created`,
      [],
    );
    const lastCreated = row?.created ? fromTime(row.created) : Number.NEGATIVE_INFINITY;
    return { filter, conversationId, activeSince, lastSeq: row?.seq ?? 0, lastCreated, since };
  }

  /**
   * Row numbers are given out before their transactions commit, and clocks of hosts differ; both by less than
   * SETTLED_MS. So nothing up to the newest row of a page that was all written longer ago can still come; and what is
   * there of it may only change where a reply is being written.
   */
  async cursor(now: Instant): Promise<ExportCursor> {
    const settled = toTime(now - SETTLED_MS);
    let before = Number.MAX_SAFE_INTEGER;
    for (;;) {
      const rows = await this.#select<{ id: number; updated_at: string }>(
        'SELECT id, updated_at FROM messages WHERE id < ? ORDER BY id DESC LIMIT ?',
        [before, CURSOR_PAGE],
      );
      const [newest] = rows;
      const oldest = rows.at(-1);
      const still = rows.some(({ updated_at }) => updated_at >= settled);
      if (newest && !still) return { seq: await this.#beforeGrowing(newest.id), at: now };
      if (!oldest || rows.length < CURSOR_PAGE) return { seq: 0, at: now };
      before = oldest.id;
    }
  }

  async *deletions({ at }: ExportCursor, owner: string | null): AsyncGenerator<readonly ExportDeletion[]> {
    const theirs = owner === null ? [] : [owner];
    let after = 0;
    for (;;) {
      const rows = await this.#select<{ id: number; conversation_id: string; deleted_at: string }>(
        `SELECT id, conversation_id, deleted_at FROM deletions
         WHERE deleted_at >= ? AND id > ? ${theirs.length > 0 ? 'AND owner = ?' : ''} ORDER BY id LIMIT ?`,
        [toTime(at - SETTLED_MS), after, ...theirs, CURSOR_PAGE],
      );
      const last = rows.at(-1);
      if (!last) return;
      yield rows.map((row) => ({ id: row.conversation_id, deletedAt: shownTime(row.deleted_at) }));
      after = last.id;
    }
  }

  async #beforeGrowing(seq: number): Promise<number> {
    const [row] = await this.#select<{ id: number | null }>(
      `SELECT MIN(id) AS id FROM messages ${this.#dialect.forceIndex('messages_worker')} WHERE worker IS NOT NULL`,
      [],
    );
    return row?.id ? Math.min(seq, row.id - 1) : seq;
  }

  /** Where the database works beside this process, it looks for the next page while this one is being sent. */
  read(scope: ExportScope, position: ExportPosition | null = null): AsyncGenerator<readonly ExportPart[]> {
    const pages = this.#pages(scope, position);
    return this.#dialect.pooled ? oneAhead(pages) : pages;
  }

  async *#pages(scope: ExportScope, position: ExportPosition | null): AsyncGenerator<readonly ExportPart[]> {
    const filtered = isFiltered(scope);
    /** How many conversations fill a page of messages, as far as is known. */
    let step = 20;
    for await (const heads of this.#heads(scope, position)) {
      for (let at = 0; at < heads.length; ) {
        const wanted = heads.slice(at, at + step);
        const rows = await this.#bodies(scope, wanted, 0);
        const whole = rows.length < this.#page ? wanted : wholeOnes(wanted, rows);
        const [first] = wanted;
        if (whole.length > 0) {
          yield* this.#groups(whole, rows, filtered);
          at += whole.length;
          step = this.#nextStep(step, rows);
        } else if (first && wanted.length === 1) {
          yield* this.#pieces(shownConversation(first), this.#long(scope, first));
          at += 1;
        } else step = Math.max(1, Math.floor(wanted.length / 2));
        // On one connection that is also the writer's, what waits for it gets its turn.
        await nextTurn();
      }
    }
  }

  /** In pages too, so that no database is busy with one statement for long. */
  async count(
    scope: ExportScope,
    signal?: AbortSignal,
  ): Promise<{ conversations: number; messages: number }> {
    const { sql, bindings } = messageFilter(scope);
    const filtered = isFiltered(scope);
    const total = { conversations: 0, messages: 0 };
    for await (const heads of this.#heads(scope)) {
      signal?.throwIfAborted();
      const [row] = await this.#select<{ conversations: number; messages: number }>(
        `SELECT COUNT(DISTINCT conversation_id) AS conversations, COUNT(*) AS messages
         FROM messages ${this.#dialect.forceIndex('messages_conversation')}
         WHERE conversation_id IN (${placeholders(heads.length)}) ${sql}`,
        [...heads.map(({ id }) => id), ...bindings],
      );
      total.conversations += filtered ? (row?.conversations ?? 0) : heads.length;
      total.messages += row?.messages ?? 0;
      await nextTurn();
    }
    return total;
  }

  #nextStep(step: number, rows: readonly BodyRow[]): number {
    const conversations = new Set(rows.map((row) => row.conversation_id)).size;
    const fitting = (0.8 * this.#page * conversations) / Math.max(1, rows.length);
    return Math.max(
      1,
      Math.min(4 * step, CONVERSATIONS, rows.length === 0 ? CONVERSATIONS : Math.floor(fitting)),
    );
  }

  async *#heads(
    scope: ExportScope,
    position: ExportPosition | null = null,
  ): AsyncGenerator<readonly HeadRow[]> {
    const { filter, conversationId } = scope;
    // A job of a version that knew no owners has none in its filter.
    const owner = filter.owner ?? null;
    const theirs = owner === null ? [] : [owner];
    const index = theirs.length > 0 ? 'conversations_owner_created_at' : 'conversations_created_at';
    const since = sinceFilter(scope);
    const changed = scope.since
      ? `AND EXISTS (SELECT 1 FROM messages WHERE messages.conversation_id = conversations.id ${since.sql})`
      : '';
    const until = toTime(Math.min(filter.to ?? scope.lastCreated, scope.lastCreated));
    let from = position ? storedTime(position.createdAt) : toTime(filter.from ?? Number.NEGATIVE_INFINITY);
    let after = position?.id ?? '';
    for (;;) {
      const heads = await this.#select<HeadRow>(
        `SELECT id, created_at, last_active FROM conversations
         ${conversationId === null ? this.#dialect.forceIndex(index) : ''}
         WHERE ${theirs.length > 0 ? 'owner = ? AND' : ''} created_at >= ? AND created_at <= ? AND (created_at > ? OR id > ?) AND last_active >= ?
         ${conversationId === null ? '' : 'AND id = ?'} ${changed} ORDER BY created_at, id LIMIT ?`,
        [
          ...[...theirs, from, until, from, after, toTime(scope.activeSince)],
          ...(conversationId === null ? [] : [conversationId]),
          ...since.bindings,
          CONVERSATIONS,
        ],
      );
      const last = heads.at(-1);
      if (!last) return;
      yield heads;
      if (heads.length < CONVERSATIONS) return;
      from = last.created_at;
      after = last.id;
    }
  }

  /** Their messages after `afterSeq`, by conversation and age, at most a page. */
  #bodies(scope: ExportScope, heads: readonly HeadRow[], afterSeq: number): Promise<BodyRow[]> {
    const { sql, bindings } = messageFilter(scope);
    return this.#select<BodyRow>(
      `SELECT id, uid, conversation_id, role, timestamp, status, LENGTH(content) AS size,
         CASE WHEN LENGTH(content) <= ${LONG_CONTENT} THEN content END AS content
       FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE conversation_id IN (${placeholders(heads.length)}) AND id > ? AND ${BEGUN} ${sql}
       ORDER BY conversation_id, id LIMIT ?`,
      [...heads.map(({ id }) => id), afterSeq, ...bindings, this.#page],
    );
  }

  /** The messages of a conversation of more than a page. */
  async *#long(scope: ExportScope, head: HeadRow): AsyncGenerator<WholeRow[]> {
    for (let after = 0; ; ) {
      const rows = await this.#bodies(scope, [head], after);
      yield* this.#completed(rows);
      const last = rows.at(-1);
      if (!last || rows.length < this.#page) return;
      after = last.id;
      await nextTurn();
    }
  }

  /** One conversation, as its messages come; nothing when all of them were deleted since they were found. */
  async *#pieces(
    conversation: ExportConversation,
    pages: AsyncIterable<readonly WholeRow[]>,
  ): AsyncGenerator<ExportPart[]> {
    let begins = true;
    for await (const page of pages) {
      if (page.length === 0) continue;
      yield [{ conversation, messages: page.map(shownMessage), begins, ends: false }];
      begins = false;
    }
    if (!begins) yield [{ conversation, messages: [], begins, ends: true }];
  }

  /** The conversations with their messages out of one page of rows. */
  async *#groups(
    heads: readonly HeadRow[],
    rows: readonly BodyRow[],
    filtered: boolean,
  ): AsyncGenerator<ExportPart[]> {
    const byConversation = Map.groupBy(rows, (row) => row.conversation_id);
    const empty = heads.filter(({ id }) => !byConversation.has(id));
    const kept = filtered || empty.length === 0 ? new Set<string>() : await this.#reallyEmpty(empty);
    const shown = heads.filter(({ id }) => byConversation.has(id) || kept.has(id));
    if (!rows.some(({ content }) => content === null)) {
      yield shown.map((head): ExportPart => {
        const messages = (byConversation.get(head.id) ?? []).flatMap((row) =>
          isWhole(row) ? [shownMessage(row)] : [],
        );
        return { conversation: shownConversation(head), messages, begins: true, ends: true };
      });
      return;
    }
    for (const head of shown) {
      const conversation = shownConversation(head);
      if (kept.has(head.id)) yield [{ conversation, messages: [], begins: true, ends: true }];
      else yield* this.#pieces(conversation, this.#completed(byConversation.get(head.id) ?? []));
    }
  }

  /**
   * Of conversations without a message to export, those that have none at all. The others were deleted since they
   * were found, or have begun only after the start.
   */
  async #reallyEmpty(heads: readonly HeadRow[]): Promise<Set<string>> {
    const rows = await this.#select<{ id: string }>(
      `SELECT id FROM conversations c WHERE id IN (${placeholders(heads.length)})
       AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.conversation_id = c.id)`,
      heads.map(({ id }) => id),
    );
    return new Set(rows.map(({ id }) => id));
  }

  /** The rows with their long contents, few of those at a time; what was deleted meanwhile is left out. */
  async *#completed(rows: readonly BodyRow[]): AsyncGenerator<WholeRow[]> {
    let batch: BodyRow[] = [];
    let size = 0;
    for (const row of rows) {
      if (row.content === null && size > 0 && size + row.size > LONG_BATCH) {
        yield await this.#filled(batch);
        batch = [];
        size = 0;
      }
      batch.push(row);
      if (row.content === null) size += row.size;
    }
    yield await this.#filled(batch);
  }

  async #filled(rows: readonly BodyRow[]): Promise<WholeRow[]> {
    const long = rows.filter(({ content }) => content === null).map(({ id }) => id);
    if (long.length === 0) return rows.filter(isWhole);
    const found = await this.#select<{ id: number; content: string }>(
      `SELECT id, content FROM messages WHERE id IN (${placeholders(long.length)})`,
      long,
    );
    const contents = new Map(found.map(({ id, content }) => [id, content]));
    return rows
      .map((row) => ({ ...row, content: row.content ?? contents.get(row.id) ?? null }))
      .filter(isWhole);
  }

  #select<Row>(sql: string, bindings: readonly (string | number)[]): Promise<Row[]> {
    return withReconnect(() => this.#dialect.select<Row>(this.#knex, sql, bindings));
  }
}

/** From a full page: those from the first on of which nothing is missing. Its last one may be cut. */
function wholeOnes(heads: readonly HeadRow[], rows: readonly BodyRow[]): readonly HeadRow[] {
  const cut = rows.at(-1)?.conversation_id ?? '';
  const missing = heads.findIndex(({ id }) => id >= cut);
  return missing < 0 ? heads : heads.slice(0, missing);
}

function isWhole(row: BodyRow): row is WholeRow {
  return row.content !== null;
}

/** `YYYY-MM-DD HH:mm:ss.SSS` → RFC 3339. */
function shownTime(time: string): string {
  return `${time.replace(' ', 'T')}Z`;
}

/** The inverse of {@link shownTime}. */
function storedTime(time: string): string {
  return time.slice(0, -1).replace('T', ' ');
}

function shownConversation(row: HeadRow): ExportConversation {
  return { id: row.id, createdAt: shownTime(row.created_at), lastActive: shownTime(row.last_active) };
}

function shownMessage({ uid, role, content, timestamp, status }: WholeRow): ExportMessage {
  return { uid, role, content, timestamp: shownTime(timestamp), status };
}
