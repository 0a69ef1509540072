import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { Counts, Instant } from '../../domain/conversations/conversation.ts';
import {
  type ExportConversation,
  type ExportCursor,
  type ExportDeletion,
  type ExportFilter,
  type ExportMessage,
  type ExportPage,
  type ExportPart,
  type ExportPosition,
  type ExportScope,
  type ExportSource,
  pageOf,
} from '../../domain/exports/exports.ts';
import { fromTime, toSettings, toTime } from '../core/codec.ts';
import { type Dialect, dialectOf, placeholders } from '../core/dialect.ts';
import { select } from '../core/errors.ts';
import {
  type ConversationRow,
  type DeletionRow,
  SETTINGS_COLUMNS,
  type StoredSettings,
} from '../core/tables.ts';
import { changedConversations } from './changed.ts';
import { hasAllConversations, isFiltered, type PageScope, renewedColumn, SETTLED_MS } from './filters.ts';
import { hasContent, loaded, type MessageBody, MessageReader } from './messages.ts';
import { prefetch } from './prefetch.ts';
import { columnOf, isoOf } from './times.ts';

type ConversationHead = Pick<
  ConversationRow,
  'id' | 'created_at' | 'last_active' | 'pinned' | 'epoch' | 'deleted_at' | 'last_seq'
> &
  StoredSettings & { readonly renewed: number };

const CONVERSATIONS = 500;
const CURSOR_PAGE = 1000;
/** For each message of a page: messages that one statement looks at for changes, and changed conversations. */
const SEARCH_WINDOW = 20;
const MAX_CHANGED = 140;

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
    const [row] = await select<{ created: string | null }>(
      this.#knex,
      'SELECT MAX(created_at) AS created FROM conversations',
      [],
    );
    const lastCreated = row?.created ? fromTime(row.created) : Number.NEGATIVE_INFINITY;
    return { filter, conversationId, activeSince, lastCreated, since };
  }

  /** By time, so that an index limits what a statement looks at; those of other owners are left out afterwards. */
  async *deletions({ at }: ExportCursor, owner: string | null): AsyncGenerator<readonly ExportDeletion[]> {
    let from = toTime(at - SETTLED_MS);
    let after = 0;
    for (;;) {
      const rows = await select<Omit<DeletionRow, 'renewed' | 'pending'>>(
        this.#knex,
        `SELECT id, conversation_id, owner, deleted_at FROM deletions ${this.#dialect.forceIndex('deletions_deleted_at')}
         WHERE deleted_at >= ? AND (deleted_at > ? OR id > ?) ORDER BY deleted_at, id LIMIT ?`,
        [from, from, after, CURSOR_PAGE],
      );
      const last = rows.at(-1);
      if (!last) return;
      const mine = owner === null ? rows : rows.filter((row) => row.owner === owner);
      yield mine.map((row) => ({ id: row.conversation_id, deletedAt: isoOf(row.deleted_at) }));
      from = last.deleted_at;
      after = last.id;
      await nextTurn();
    }
  }

  /** A database server reads the next page while this one is sent. */
  read(scope: ExportScope, position: ExportPosition | null = null): AsyncGenerator<ExportPage> {
    const pages = this.#pages(scope, position);
    return this.#dialect.pooled ? prefetch(pages) : pages;
  }

  /** In pages, so that no statement runs for long. */
  async count(scope: ExportScope, signal?: AbortSignal, onPage?: () => void): Promise<Counts> {
    const filtered = isFiltered(scope);
    const total = { conversations: 0, messages: 0 };
    for await (const { heads } of this.#conversationPages(scope, null)) {
      signal?.throwIfAborted();
      onPage?.();
      if (heads.length === 0) continue;
      const found = await this.#messages.count(pageScope(scope, heads), heads);
      total.conversations += filtered ? found.conversations : heads.length;
      total.messages += found.messages;
    }
    return total;
  }

  async *#pages(scope: ExportScope, position: ExportPosition | null): AsyncGenerator<ExportPage> {
    const { pageSize } = this.#messages;
    /** An estimate of how many conversations fill a page of messages. */
    let step = 20;
    for await (const { heads, last } of this.#conversationPages(scope, position)) {
      // An empty page tells the caller that the export makes progress.
      if (heads.length === 0) yield { parts: [], position: last && positionOf(last) };
      const page = pageScope(scope, heads);
      for (let at = 0; at < heads.length; ) {
        const wanted = heads.slice(at, at + step);
        const [first] = wanted;
        const cut = await this.#messages.firstCut(page, wanted);
        const readable = cut === null ? wanted : before(wanted, cut);
        const rows = readable.length > 0 ? await this.#messages.messagePage(page, readable) : undefined;
        const complete = !rows || rows.length < pageSize ? readable : completeOnes(readable, rows);
        if (rows && complete.length > 0) {
          yield* pagesUpTo(complete.at(-1), this.#assemble(scope, complete, rows));
          at += complete.length;
          step = cut === null ? nextStep(step, rows, pageSize) : Math.max(complete.length, half(step));
        } else if (first && (wanted.length === 1 || readable.length === 1)) {
          const pages = this.#messages.pagesOf(page, first);
          yield* pagesUpTo(first, partsOf(toConversation(first), pages));
          at += 1;
        } else step = half(wanted.length);
        // On SQLite, statements that wait for the connection run now.
        await nextTurn();
      }
    }
  }

  /**
   * Conversations by age. A page is so many rows of the index, of which expired and deleted ones are left out: a LIMIT
   * on those that match could look at all of them. While changes are looked for, pages without a position come first.
   */
  async *#conversationPages(
    scope: ExportScope,
    position: ExportPosition | null,
  ): AsyncGenerator<{ readonly heads: readonly ConversationHead[]; readonly last: ConversationHead | null }> {
    const activeSince = toTime(scope.activeSince);
    const { pageSize } = this.#messages;
    const limits = { window: SEARCH_WINDOW * pageSize, conversations: MAX_CHANGED * pageSize };
    const isWhole = position === null && hasAllConversations(scope);
    const changes = changedConversations(this.#knex, isWhole ? scope.since : null, limits);
    let search = await changes.next();
    for (; !search.done; search = await changes.next()) yield { heads: [], last: null };
    const changed = search.value;
    let after = position && { created_at: columnOf(position.createdAt), id: position.id };
    for (;;) {
      const heads = await this.#conversationPage(scope, after);
      const last = heads.at(-1);
      if (!last) return;
      const live = heads.filter(
        (head) =>
          (head.pinned === 1 || head.last_active >= activeSince) &&
          head.deleted_at === null &&
          (changed === null || changed.has(head.id) || head.renewed === 1),
      );
      yield { heads: live, last };
      if (heads.length < CONVERSATIONS) return;
      after = last;
      await nextTurn();
    }
  }

  /** In two statements: MySQL has no index range for `(created_at, id) > (?, ?)`, and times can be equal. */
  async #conversationPage(
    scope: ExportScope,
    after: Pick<ConversationHead, 'created_at' | 'id'> | null,
  ): Promise<ConversationHead[]> {
    const { filter, lastCreated } = scope;
    const until = toTime(Math.min(filter.to ?? lastCreated, lastCreated));
    const from = toTime(filter.from ?? Number.NEGATIVE_INFINITY);
    if (!after)
      return this.#heads(scope, 'created_at >= ? AND created_at <= ?', [from, until], CONVERSATIONS);
    const { created_at, id } = after;
    const same = await this.#heads(scope, 'created_at = ? AND id > ?', [created_at, id], CONVERSATIONS);
    const left = CONVERSATIONS - same.length;
    if (left === 0) return same;
    const later = 'created_at > ? AND created_at <= ?';
    return [...same, ...(await this.#heads(scope, later, [created_at, until], left))];
  }

  #heads(
    scope: ExportScope,
    range: string,
    bindings: readonly string[],
    limit: number,
  ): Promise<ConversationHead[]> {
    const { filter, conversationId } = scope;
    const renewed = renewedColumn(scope);
    // Jobs stored by versions without owners have no owner in their filter.
    const owner = filter.owner ? [filter.owner] : [];
    const one = conversationId === null ? [] : [conversationId];
    const index = filter.owner ? 'conversations_owner_created_at' : 'conversations_created_at';
    return select<ConversationHead>(
      this.#knex,
      `SELECT id, created_at, last_active, pinned, ${SETTINGS_COLUMNS}, epoch, deleted_at, last_seq, ${renewed.sql} AS renewed FROM conversations
       ${one.length > 0 ? '' : this.#dialect.forceIndex(index)}
       WHERE ${owner.length > 0 ? 'owner = ? AND' : ''} ${one.length > 0 ? 'id = ? AND' : ''} ${range}
       ORDER BY created_at, id LIMIT ?`,
      [...renewed.bindings, ...owner, ...one, ...bindings, limit],
    );
  }

  /** The parts of conversations whose messages are all in `rows`. */
  async *#assemble(
    scope: ExportScope,
    heads: readonly ConversationHead[],
    rows: readonly MessageBody[],
  ): AsyncGenerator<ExportPart[]> {
    const epochs = new Map(heads.map(({ id, epoch }) => [id, epoch]));
    const visible = rows.filter((row) => row.epoch === epochs.get(row.conversation_id));
    const byConversation = Map.groupBy(visible, (row) => row.conversation_id);
    const empty = isFiltered(scope) ? [] : heads.filter(({ id }) => !byConversation.has(id));
    const withoutMessages = await this.#withoutMessages(idsOf(empty));
    const exported = heads.filter(({ id }) => byConversation.has(id) || withoutMessages.has(id));
    if (visible.every(hasContent)) {
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

  /** The conversations that have no message at all. Others were deleted meanwhile, or have only replies without text. */
  async #withoutMessages(ids: readonly string[]): Promise<Set<string>> {
    if (ids.length === 0) return new Set();
    const rows = await select<{ id: string }>(
      this.#knex,
      `SELECT id FROM conversations c WHERE id IN (${placeholders(ids.length)})
       AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.conversation_id = c.id AND m.epoch = c.epoch)`,
      ids,
    );
    return new Set(idsOf(rows));
  }
}

/** Pages of these parts, after which all conversations up to `last` are complete. */
async function* pagesUpTo(
  last: ConversationHead | undefined,
  pages: AsyncIterable<readonly ExportPart[]>,
): AsyncGenerator<ExportPage> {
  let done: string | undefined;
  for await (const parts of pages) {
    const page = pageOf(parts);
    yield page;
    done = page.position?.id;
  }
  if (last && done !== last.id) yield { parts: [], position: positionOf(last) };
}

function pageScope(scope: ExportScope, heads: readonly ConversationHead[]): PageScope {
  return { ...scope, renewed: idsOf(heads.filter(({ renewed }) => renewed === 1)) };
}

function positionOf({ id, created_at }: ConversationHead): ExportPosition {
  return { id, createdAt: isoOf(created_at) };
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

function half(count: number): number {
  return Math.max(1, Math.floor(count / 2));
}

/** The leading conversations of a full page that have all their messages in it. */
function completeOnes(
  heads: readonly ConversationHead[],
  rows: readonly MessageBody[],
): readonly ConversationHead[] {
  return before(heads, rows.at(-1)?.conversation_id ?? '');
}

/** The leading conversations whose ids are less than `cut`. */
function before(heads: readonly ConversationHead[], cut: string): readonly ConversationHead[] {
  const missing = heads.findIndex(({ id }) => id >= cut);
  return missing < 0 ? heads : heads.slice(0, missing);
}

function idsOf(rows: readonly { readonly id: string }[]): string[] {
  return rows.map(({ id }) => id);
}

function toConversation(row: ConversationHead): ExportConversation {
  const conversation = { id: row.id, createdAt: isoOf(row.created_at), lastActive: isoOf(row.last_active) };
  const pinned = row.pinned === 1;
  const { title, user_id, metadata, system_prompt, default_model, parameters } = row;
  const isSet = (title ?? user_id ?? metadata ?? system_prompt ?? default_model ?? parameters) !== null;
  return isSet || pinned ? { ...conversation, settings: { ...toSettings(row), pinned } } : conversation;
}
