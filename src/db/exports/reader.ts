import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversations/conversation.ts';
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
} from '../../domain/exports/exports.ts';
import { fromTime, toTime } from '../core/codec.ts';
import { type Dialect, dialectOf, placeholders } from '../core/dialect.ts';
import { withReconnect } from '../core/errors.ts';
import type { ConversationRow, DeletionRow, MessageRow } from '../core/tables.ts';
import { isFiltered, messageFilter, SETTLED_MS, sinceFilter } from './filters.ts';
import { hasContent, loaded, type MessageBody, MessageReader } from './messages.ts';
import { prefetch } from './prefetch.ts';
import { columnOf, isoOf } from './times.ts';

type ConversationHead = Pick<ConversationRow, 'id' | 'created_at' | 'last_active'>;

const CONVERSATIONS = 500;
const CURSOR_PAGE = 1000;

/** Raw SQL: `npm run bench:export` measures this path. */
export class KnexExportSource implements ExportSource {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #messages: MessageReader;

  /** @param pageSize messages per query */
  constructor(knex: Knex, pageSize?: number) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.#messages = new MessageReader(knex, pageSize);
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
   * Row numbers are assigned before their transactions commit, and the clocks of hosts differ, both by less than
   * SETTLED_MS. So no row can still appear before the newest row of a page whose rows are all older, and of the rows
   * before it only streaming replies change.
   */
  async cursor(now: Instant): Promise<ExportCursor> {
    const settled = toTime(now - SETTLED_MS);
    let before = Number.MAX_SAFE_INTEGER;
    for (;;) {
      const rows = await this.#select<Pick<MessageRow, 'id' | 'updated_at'>>(
        'SELECT id, updated_at FROM messages WHERE id < ? ORDER BY id DESC LIMIT ?',
        [before, CURSOR_PAGE],
      );
      const [newest] = rows;
      const oldest = rows.at(-1);
      const isSettled = rows.every(({ updated_at }) => updated_at < settled);
      if (newest && isSettled) return { seq: await this.#beforeStreaming(newest.id), at: now };
      if (!oldest || rows.length < CURSOR_PAGE) return { seq: 0, at: now };
      before = oldest.id;
    }
  }

  async #beforeStreaming(seq: number): Promise<number> {
    const [row] = await this.#select<{ id: number | null }>(
      `SELECT MIN(id) AS id FROM messages ${this.#dialect.forceIndex('messages_worker')} WHERE worker IS NOT NULL`,
      [],
    );
    return row?.id ? Math.min(seq, row.id - 1) : seq;
  }

  async *deletions({ at }: ExportCursor, owner: string | null): AsyncGenerator<readonly ExportDeletion[]> {
    const owners = owner === null ? [] : [owner];
    let after = 0;
    for (;;) {
      const rows = await this.#select<Pick<DeletionRow, 'id' | 'conversation_id' | 'deleted_at'>>(
        `SELECT id, conversation_id, deleted_at FROM deletions
         WHERE deleted_at >= ? AND id > ? ${owners.length > 0 ? 'AND owner = ?' : ''} ORDER BY id LIMIT ?`,
        [toTime(at - SETTLED_MS), after, ...owners, CURSOR_PAGE],
      );
      const last = rows.at(-1);
      if (!last) return;
      yield rows.map((row) => ({ id: row.conversation_id, deletedAt: isoOf(row.deleted_at) }));
      after = last.id;
    }
  }

  /** A database server reads the next page while this one is sent. */
  read(scope: ExportScope, position: ExportPosition | null = null): AsyncGenerator<readonly ExportPart[]> {
    const pages = this.#pages(scope, position);
    return this.#dialect.pooled ? prefetch(pages) : pages;
  }

  /** In pages, so that no statement runs for long. */
  async count(
    scope: ExportScope,
    signal?: AbortSignal,
  ): Promise<{ conversations: number; messages: number }> {
    const { sql, bindings } = messageFilter(scope);
    const filtered = isFiltered(scope);
    const total = { conversations: 0, messages: 0 };
    for await (const heads of this.#conversationPages(scope, null)) {
      signal?.throwIfAborted();
      const [row] = await this.#select<{ conversations: number; messages: number }>(
        `SELECT COUNT(DISTINCT conversation_id) AS conversations, COUNT(*) AS messages
         FROM messages ${this.#dialect.forceIndex('messages_conversation')}
         WHERE conversation_id IN (${placeholders(heads.length)}) ${sql}`,
        [...idsOf(heads), ...bindings],
      );
      total.conversations += filtered ? (row?.conversations ?? 0) : heads.length;
      total.messages += row?.messages ?? 0;
      await nextTurn();
    }
    return total;
  }

  async *#pages(scope: ExportScope, position: ExportPosition | null): AsyncGenerator<readonly ExportPart[]> {
    const { pageSize } = this.#messages;
    /** An estimate of how many conversations fill a page of messages. */
    let step = 20;
    for await (const heads of this.#conversationPages(scope, position)) {
      for (let at = 0; at < heads.length; ) {
        const wanted = heads.slice(at, at + step);
        const rows = await this.#messages.messagePage(scope, idsOf(wanted), 0);
        const complete = rows.length < pageSize ? wanted : completeOnes(wanted, rows);
        const [first] = wanted;
        if (complete.length > 0) {
          yield* this.#assemble(scope, complete, rows);
          at += complete.length;
          step = nextStep(step, rows, pageSize);
        } else if (first && wanted.length === 1) {
          yield* partsOf(toConversation(first), this.#messages.pagesOf(scope, first.id));
          at += 1;
        } else step = Math.max(1, Math.floor(wanted.length / 2));
        // On SQLite, statements that wait for the connection run now.
        await nextTurn();
      }
    }
  }

  async *#conversationPages(
    scope: ExportScope,
    position: ExportPosition | null,
  ): AsyncGenerator<readonly ConversationHead[]> {
    let from = position
      ? columnOf(position.createdAt)
      : toTime(scope.filter.from ?? Number.NEGATIVE_INFINITY);
    let after = position?.id ?? '';
    for (;;) {
      const heads = await this.#conversationPage(scope, from, after);
      const last = heads.at(-1);
      if (!last) return;
      yield heads;
      if (heads.length < CONVERSATIONS) return;
      from = last.created_at;
      after = last.id;
    }
  }

  #conversationPage(scope: ExportScope, from: string, after: string): Promise<ConversationHead[]> {
    const { filter, conversationId } = scope;
    const until = toTime(Math.min(filter.to ?? scope.lastCreated, scope.lastCreated));
    const since = sinceFilter(scope);
    const conditions = [
      'created_at >= ?',
      'created_at <= ?',
      '(created_at > ? OR id > ?)',
      'last_active >= ?',
    ];
    const bindings = [from, until, from, after, toTime(scope.activeSince)];
    let hint = this.#dialect.forceIndex('conversations_created_at');
    // Jobs stored by versions without owners have no owner in their filter.
    if (filter.owner) {
      hint = this.#dialect.forceIndex('conversations_owner_created_at');
      conditions.unshift('owner = ?');
      bindings.unshift(filter.owner);
    }
    if (conversationId !== null) {
      hint = '';
      conditions.push('id = ?');
      bindings.push(conversationId);
    }
    if (scope.since) {
      conditions.push(
        `EXISTS (SELECT 1 FROM messages WHERE messages.conversation_id = conversations.id ${since.sql})`,
      );
    }
    return this.#select<ConversationHead>(
      `SELECT id, created_at, last_active FROM conversations ${hint}
       WHERE ${conditions.join(' AND ')} ORDER BY created_at, id LIMIT ?`,
      [...bindings, ...since.bindings, CONVERSATIONS],
    );
  }

  /** The parts of conversations whose messages are all in `rows`. */
  async *#assemble(
    scope: ExportScope,
    heads: readonly ConversationHead[],
    rows: readonly MessageBody[],
  ): AsyncGenerator<ExportPart[]> {
    const byConversation = Map.groupBy(rows, (row) => row.conversation_id);
    const empty = isFiltered(scope) ? [] : heads.filter(({ id }) => !byConversation.has(id));
    const withoutMessages = await this.#withoutMessages(idsOf(empty));
    const exported = heads.filter(({ id }) => byConversation.has(id) || withoutMessages.has(id));
    if (rows.every(hasContent)) {
      yield exported.map((head): ExportPart => {
        const messages = loaded(byConversation.get(head.id) ?? []);
        return { conversation: toConversation(head), messages, begins: true, ends: true };
      });
      return;
    }
    for (const head of exported) {
      const conversation = toConversation(head);
      if (withoutMessages.has(head.id)) yield [{ conversation, messages: [], begins: true, ends: true }];
      else yield* partsOf(conversation, this.#messages.withContents(byConversation.get(head.id) ?? []));
    }
  }

  /** The conversations that have no message at all. Others were deleted meanwhile, or have only newer messages. */
  async #withoutMessages(ids: readonly string[]): Promise<Set<string>> {
    if (ids.length === 0) return new Set();
    const rows = await this.#select<{ id: string }>(
      `SELECT id FROM conversations c WHERE id IN (${placeholders(ids.length)})
       AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.conversation_id = c.id)`,
      ids,
    );
    return new Set(idsOf(rows));
  }

  #select<Row>(sql: string, bindings: readonly (string | number)[]): Promise<Row[]> {
    return withReconnect(() => this.#dialect.select<Row>(this.#knex, sql, bindings));
  }
}

/** One conversation in several parts; none when all its messages were deleted meanwhile. */
async function* partsOf(
  conversation: ExportConversation,
  pages: AsyncIterable<readonly ExportMessage[]>,
): AsyncGenerator<ExportPart[]> {
  let begins = true;
  for await (const messages of pages) {
    if (messages.length === 0) continue;
    yield [{ conversation, messages, begins, ends: false }];
    begins = false;
  }
  if (!begins) yield [{ conversation, messages: [], begins, ends: true }];
}

function nextStep(step: number, rows: readonly MessageBody[], pageSize: number): number {
  if (rows.length === 0) return Math.min(4 * step, CONVERSATIONS);
  const conversations = new Set(rows.map((row) => row.conversation_id)).size;
  const fitting = Math.floor((0.8 * pageSize * conversations) / rows.length);
  return Math.max(1, Math.min(4 * step, CONVERSATIONS, fitting));
}

/** The leading conversations of a full page that have all their messages in it. */
function completeOnes(
  heads: readonly ConversationHead[],
  rows: readonly MessageBody[],
): readonly ConversationHead[] {
  const cut = rows.at(-1)?.conversation_id ?? '';
  const missing = heads.findIndex(({ id }) => id >= cut);
  return missing < 0 ? heads : heads.slice(0, missing);
}

function idsOf(rows: readonly { readonly id: string }[]): string[] {
  return rows.map(({ id }) => id);
}

function toConversation(row: ConversationHead): ExportConversation {
  return { id: row.id, createdAt: isoOf(row.created_at), lastActive: isoOf(row.last_active) };
}
