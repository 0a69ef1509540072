import type { Knex } from 'knex';
import { type Access, canAccess } from '../../domain/access/access.ts';
import type {
  ContextOptions,
  Conversation,
  ConversationChanges,
  ConversationContext,
  ConversationCursor,
  ConversationFilter,
  ConversationHead,
  ConversationOutline,
  ConversationRepository,
  Feedback,
  FoundConversation,
  HashedConversation,
  Instant,
  MessagePage,
  MessageView,
  SearchedConversations,
  SequencedMessage,
  TextMatcher,
  WithinConversation,
} from '../../domain/conversations/conversation.ts';
import type { PendingDeletion } from '../../domain/conversations/purge.ts';
import { fromChanges, toConversation, toMessage, toSettings, toTime } from '../core/codec.ts';
import { type Dialect, dialectOf, placeholders } from '../core/dialect.ts';
import { asAppErrors, databaseUnavailable, select, transaction, withReconnect } from '../core/errors.ts';
import { pendingMigrations } from '../core/migrations.ts';
import {
  CONVERSATION_COLUMNS,
  type ConversationRow,
  isUnexpired,
  MESSAGE_COLUMNS,
  type MessageRow,
  SETTINGS_COLUMNS,
  type StoredConversation,
  type StoredMessage,
  type StoredSettings,
} from '../core/tables.ts';
import { markChanged } from '../exports/mark-changed.ts';
import { newHistory, UNKNOWN_HISTORY } from '../turns/history-chain.ts';
import { ContextReader } from './context.ts';
import { ConversationLists } from './conversation-lists.ts';
import { ConversationSearch } from './conversation-search.ts';
import { hideConversations, removeSoon } from './deletions.ts';
import { saveFeedback } from './feedback.ts';
import { MessagePages } from './message-pages.ts';

type StoredFound = StoredConversation & StoredSettings & Pick<ConversationRow, 'epoch'>;

const FOUND_COLUMNS = `${CONVERSATION_COLUMNS}, ${SETTINGS_COLUMNS}, epoch`;
/** Conversations that began with the same question and a cached reply have equal histories. */
const MAX_CONTINUED = 4;

function toFound(row: StoredFound): FoundConversation {
  return { ...toConversation(row), epoch: row.epoch, settings: toSettings(row) };
}

export class KnexConversations implements ConversationRepository {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #pages: MessagePages;
  readonly #lists: ConversationLists;
  readonly #search: ConversationSearch;
  readonly #context: ContextReader;

  constructor(knex: Knex) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
    this.#context = new ContextReader(knex);
    this.#pages = new MessagePages(knex);
    this.#lists = new ConversationLists(knex);
    this.#search = new ConversationSearch(knex);
  }

  async create(
    { id, owner, createdAt, lastActive }: Conversation,
    settings: ConversationChanges,
  ): Promise<void> {
    const times = { created_at: toTime(createdAt), last_active: toTime(lastActive) };
    const history = newHistory(owner, settings.user ?? null, settings.system ?? null);
    const row = { id, owner, ...times, ...fromChanges(settings), ...history };
    // Written twice when the connection broke after the first time.
    await withReconnect(() => this.#knex('conversations').insert(row).onConflict('id').ignore());
  }

  update(id: string, access: Access, changes: ConversationChanges): Promise<boolean> {
    const columns = {
      ...fromChanges(changes),
      // The hash begins with the system prompt.
      ...(changes.system !== undefined && UNKNOWN_HISTORY),
    };
    return withReconnect(() =>
      transaction(this.#knex, async (trx) => {
        const [found] = await this.#dialect.lockConversations(trx, [id]);
        if (!found || found.deleted_at !== null || !canAccess(access, found.owner)) return false;
        if (Object.keys(columns).length === 0) return true;
        await trx('conversations').where({ id }).update(columns);
        await markChanged(trx, id, found.epoch);
        return true;
      }),
    );
  }

  async withHistory(
    hashes: readonly string[],
    owner: string | null,
    user: string | null,
    activeSince: Instant,
  ): Promise<HashedConversation[]> {
    const isEqual = (column: string, value: string | null) =>
      value === null ? `${column} IS NULL` : `${column} = ?`;
    const texts = [owner, user].filter((value) => value !== null);
    const rows = await select<StoredFound & { history_hash: string }>(
      this.#knex,
      `SELECT ${FOUND_COLUMNS}, history_hash FROM conversations
       WHERE history_hash IN (${placeholders(hashes.length)}) AND deleted_at IS NULL AND ${isEqual('owner', owner)}
         AND ${isEqual('user_id', user)} AND ${isUnexpired('conversations')} ORDER BY last_active DESC LIMIT ${MAX_CONTINUED}`,
      [...hashes, ...texts, toTime(activeSince)],
    );
    return rows.map((row) => ({ ...toFound(row), historyHash: row.history_hash }));
  }

  async setHistory(
    { id, epoch, lastActive }: Pick<FoundConversation, 'id' | 'epoch' | 'lastActive'>,
    hash: string,
  ) {
    const found = { id, epoch, last_active: toTime(lastActive), deleted_at: null };
    await withReconnect(() =>
      this.#knex('conversations')
        .where({ ...found, history_hash: null, history_open: null })
        .update({ history_hash: hash }),
    );
  }

  async find(id: string): Promise<FoundConversation | null> {
    const [row] = await select<StoredFound>(
      this.#knex,
      `SELECT ${FOUND_COLUMNS} FROM conversations WHERE id = ? AND deleted_at IS NULL`,
      [id],
    );
    return row ? toFound(row) : null;
  }

  context(
    id: string,
    access: Access,
    limit: number,
    activeSince: Instant,
    options?: ContextOptions,
  ): Promise<ConversationContext> {
    return this.#context.read(id, access, limit, activeSince, options);
  }

  async message(
    { id, epoch }: Pick<FoundConversation, 'id' | 'epoch'>,
    uid: string,
  ): Promise<SequencedMessage | null> {
    const [row] = await select<StoredMessage>(
      this.#knex,
      `SELECT ${MESSAGE_COLUMNS} FROM messages WHERE uid = ? AND conversation_id = ? AND epoch = ?`,
      [uid, id, epoch],
    );
    return row ? toMessage(row) : null;
  }

  messages(
    conversation: Pick<FoundConversation, 'id' | 'createdAt' | 'epoch'>,
    afterSeq: number,
    limit: number,
    maxBytes: number,
    view: MessageView,
  ): Promise<MessagePage> {
    return this.#pages.read(conversation, afterSeq, limit, maxBytes, view);
  }

  list(
    access: Access,
    limit: number,
    before: ConversationCursor | null,
    activeSince: Instant,
    filter: ConversationFilter = {},
  ): Promise<ConversationHead[]> {
    return this.#lists.heads(access, limit, before, activeSince, filter);
  }

  outlines(heads: readonly ConversationHead[]): Promise<Map<string, ConversationOutline>> {
    return this.#lists.outlines(heads);
  }

  search(
    heads: readonly ConversationHead[],
    text: TextMatcher,
    from: WithinConversation | null,
    isOver: () => boolean,
  ): Promise<SearchedConversations> {
    return this.#search.run(heads, text, from, isOver);
  }

  async conversationOf(replyUid: string): Promise<string | null> {
    const [row] = await select<Pick<MessageRow, 'conversation_id'>>(
      this.#knex,
      `SELECT m.conversation_id FROM messages m
       JOIN conversations c ON c.id = m.conversation_id AND c.epoch = m.epoch
       WHERE m.uid = ? AND m.role = 'assistant' AND c.deleted_at IS NULL`,
      [replyUid],
    );
    return row?.conversation_id ?? null;
  }

  rate(replyUid: string, feedback: Feedback | null): Promise<boolean> {
    return saveFeedback(this.#knex, replyUid, feedback);
  }

  /** Not tried again when the connection broke: the second try would say that there was none. */
  async delete(id: string, access: Access): Promise<boolean> {
    const deletions = await this.#hide(id, access);
    if (deletions.length === 0) return false;
    await removeSoon(this.#knex, deletions);
    return true;
  }

  async check(): Promise<void> {
    const pending = await withReconnect(() => pendingMigrations(this.#knex));
    if (pending.length > 0) {
      const detail = 'The schema of the database is older than this version: run npm run migrate';
      throw databaseUnavailable(`pending migrations: ${pending.join(', ')}`, detail);
    }
  }

  #hide(id: string, access: Access): Promise<PendingDeletion[]> {
    return asAppErrors(() =>
      transaction(this.#knex, async (trx) => {
        const [found] = await this.#dialect.lockConversations(trx, [id]);
        if (!found || found.deleted_at !== null || !canAccess(access, found.owner)) return [];
        return hideConversations(trx, [id], Date.now());
      }),
    );
  }
}
