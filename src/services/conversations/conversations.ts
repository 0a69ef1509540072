import { type Access, canAccess } from '../../domain/access/access.ts';
import { type PendingTurns, waitForReplay } from '../../domain/chat/turns.ts';
import type {
  Conversation,
  ConversationChanges,
  ConversationCursor,
  ConversationFilter,
  ConversationHead,
  ConversationOutline,
  ConversationRepository,
  Feedback,
  FoundConversation,
  Instant,
  MessageView,
  SequencedMessage,
} from '../../domain/conversations/conversation.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import { conversationNotFound, replyNotFound } from '../../domain/errors.ts';
import type { Clock, IdSource } from '../../domain/runtime.ts';
import { refreshHistory } from './client-history.ts';
import { findConversation } from './revisions.ts';
import { TextSearch } from './text-search.ts';

/** A page of messages ends at about this much content, UTF-8, so that a response stays small whatever the messages are. */
const PAGE_BYTES = 4 * 1024 * 1024;

/** The work of one search, and the conversations that it lists at a time. */
const SEARCH_MS = 900;
const SEARCHED = 200;
/** Before every conversation of a list. */
const NEWEST: ConversationCursor = {
  lastActive: Date.UTC(9999, 11, 31, 23, 59, 59, 999),
  id: 'ffffffff-ffff-ffff-ffff-ffffffffffff',
};

export interface ConversationView extends Conversation, ConversationOutline {
  /** Null when it never expires. */
  readonly expiresAt: Instant | null;
}

export interface ConversationPage extends ConversationView {
  readonly messages: readonly SequencedMessage[];
  /** The `seq` after which the next page starts; null for the last page. */
  readonly next: number | null;
}

export interface ConversationList {
  readonly conversations: readonly ConversationView[];
  readonly next: ConversationCursor | null;
  /** Of a search: the conversations that were searched for this page. */
  readonly searched?: number;
}

/** A page of messages to read. */
export interface PageRequest extends MessageView {
  /** The `seq` after which it starts; 0: from the first one. */
  readonly after: number;
  readonly limit: number;
}

/**
 * Creates, reads, changes and deletes conversations. Expired ones, purged or not, and those of other owners do not exist
 * for a caller.
 */
export class ConversationService {
  readonly #repository: ConversationRepository;
  readonly #pending: Pick<PendingTurns, 'has' | 'flush'>;
  readonly #deleted: (id: string) => Promise<void>;
  readonly #clock: Clock;
  readonly #ids: IdSource;
  readonly #retention: Retention;

  /** @param deleted called for every conversation deleted from the database */
  constructor(
    repository: ConversationRepository,
    pending: Pick<PendingTurns, 'has' | 'flush'>,
    clock: Clock,
    ids: IdSource,
    retention: Retention,
    deleted: (id: string) => Promise<void> = async () => {},
  ) {
    this.#repository = repository;
    this.#pending = pending;
    this.#deleted = deleted;
    this.#clock = clock;
    this.#ids = ids;
    this.#retention = retention;
  }

  /** An empty conversation of the caller. */
  async create(access: Access, settings: ConversationChanges): Promise<ConversationView> {
    const now = this.#clock.now();
    const { pinned = false } = settings;
    const created = { id: this.#ids.next(), owner: access.owner, createdAt: now, lastActive: now, pinned };
    await this.#repository.create(created, settings);
    return this.view(created.id, access);
  }

  /** An unpinned one may have expired. @throws AppError `conversation_not_found` */
  async update(id: string, access: Access, changes: ConversationChanges): Promise<ConversationView> {
    await this.#find(id, access);
    if (!(await this.#repository.update(id, access, changes))) throw conversationNotFound();
    if (changes.system !== undefined) await refreshHistory(this.#repository, id);
    const changed = await this.#repository.find(id);
    if (!changed) throw conversationNotFound();
    return this.#view(changed);
  }

  /** @throws AppError `conversation_not_found` */
  async get(id: string, access: Access, { after, limit, ...view }: PageRequest): Promise<ConversationPage> {
    const conversation = await this.#find(id, access);
    const { messages, hasMore } = await this.#repository.messages(
      conversation,
      after,
      limit,
      PAGE_BYTES,
      view,
    );
    const next = hasMore ? (messages.at(-1)?.seq ?? null) : null;
    return { ...(await this.#view(conversation)), messages, next };
  }

  /** Without its messages. @throws AppError `conversation_not_found` */
  async view(id: string, access: Access): Promise<ConversationView> {
    return this.#view(await this.#find(id, access));
  }

  /** @throws AppError `conversation_not_found` */
  async check(id: string, access: Access): Promise<void> {
    await this.#find(id, access);
  }

  #find(id: string, access: Access): Promise<FoundConversation> {
    const parts = { conversations: this.#repository, pending: this.#pending };
    return findConversation(parts, id, access, this.#activeSince());
  }

  async list(
    access: Access,
    limit: number,
    before: ConversationCursor | null,
    filter: ConversationFilter = {},
  ): Promise<ConversationList> {
    const heads = await this.#repository.list(access, limit + 1, before, this.#activeSince(), filter);
    const page = fittingPage(heads.slice(0, limit));
    const last = heads.length > page.length ? page.at(-1) : undefined;
    return {
      conversations: await this.#views(page),
      next: last ? { lastActive: last.lastActive, id: last.id } : null,
    };
  }

  /** A page of the conversations that have a text; it ends after SEARCH_MS, and can then be empty. */
  async search(
    access: Access,
    query: string,
    limit: number,
    before: ConversationCursor | null,
    filter: ConversationFilter,
  ): Promise<ConversationList> {
    const text = new TextSearch(query);
    const startedAt = performance.now();
    const isOver = () => performance.now() - startedAt > SEARCH_MS;
    const found: ConversationHead[] = [];
    let searched = 0;
    for (let last = before ?? NEWEST; ; ) {
      const heads = await this.#repository.list(access, SEARCHED, last, this.#activeSince(), filter);
      const result = await this.#repository.search(heads, text, last.within ?? null, isOver);
      for (const head of heads.slice(0, result.searched)) {
        searched += 1;
        last = { lastActive: head.lastActive, id: head.id };
        if (!result.matches.has(head.id)) continue;
        found.push(head);
        if (found.length === limit) return { conversations: await this.#views(found), next: last, searched };
      }
      const next = heads[result.searched];
      if (next && result.before !== null) last = { ...last, within: { id: next.id, seq: result.before } };
      const isDone = !next && heads.length < SEARCHED;
      if (isDone || isOver())
        return { conversations: await this.#views(found), next: isDone ? null : last, searched };
    }
  }

  /**
   * @param feedback null removes it
   * @throws AppError `message_not_found`, also for messages that are no reply
   */
  async rate(replyId: string, access: Access, feedback: Feedback | null): Promise<void> {
    const conversationId = await this.#repository.conversationOf(replyId);
    const conversation = conversationId === null ? null : await this.#repository.find(conversationId);
    const isTheirs = conversation && canAccess(access, conversation.owner) && !this.#isExpired(conversation);
    if (!isTheirs || !(await this.#repository.rate(replyId, feedback))) throw replyNotFound();
  }

  /** @throws AppError `conversation_not_found` */
  async delete(id: string, access: Access): Promise<void> {
    await waitForReplay(this.#pending, id);
    const conversation = await this.#repository.find(id);
    const deleted = conversation !== null && (await this.#repository.delete(id, access));
    if (deleted) await this.#deleted(id);
    if (!deleted || this.#isExpired(conversation)) throw conversationNotFound();
  }

  #activeSince(): Instant {
    return this.#retention.activeSince(this.#clock.now());
  }

  #isExpired(conversation: Conversation): boolean {
    return this.#retention.isExpired(conversation, this.#clock.now());
  }

  async #view(conversation: FoundConversation): Promise<ConversationView> {
    const [view] = await this.#views([{ ...conversation, title: conversation.settings.title, size: 0 }]);
    if (!view) throw conversationNotFound();
    return view;
  }

  async #views(heads: readonly ConversationHead[]): Promise<ConversationView[]> {
    const outlines = await this.#repository.outlines(heads);
    return heads.flatMap((head) => {
      const outline = outlines.get(head.id);
      return outline ? [{ ...head, ...outline, expiresAt: this.#retention.expiresAt(head) }] : [];
    });
  }
}

/** The first conversations, as many as have PAGE_BYTES of settings. */
function fittingPage(heads: readonly ConversationHead[]): readonly ConversationHead[] {
  let bytes = 0;
  const end = heads.findIndex(({ size }, index) => {
    bytes += size;
    return index > 0 && bytes > PAGE_BYTES;
  });
  return end < 0 ? heads : heads.slice(0, end);
}
