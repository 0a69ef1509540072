import { type Access, canAccess } from '../../domain/access/access.ts';
import { type PendingTurns, waitForReplay } from '../../domain/chat/turns.ts';
import type {
  Conversation,
  ConversationCursor,
  ConversationRepository,
  FoundConversation,
  Instant,
  SequencedMessage,
} from '../../domain/conversations/conversation.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import { conversationNotFound } from '../../domain/errors.ts';
import type { Clock } from '../../domain/runtime.ts';

/** A page of messages ends at about this much content, UTF-8, so that a response stays small whatever the messages are. */
const PAGE_BYTES = 4 * 1024 * 1024;

export interface ConversationView extends Conversation {
  /** Null when conversations are kept for ever. */
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
}

/**
 * Reads and deletes conversations. Expired ones, purged or not, and those of other owners do not exist for a caller.
 */
export class ConversationService {
  readonly #repository: ConversationRepository;
  readonly #pending: Pick<PendingTurns, 'has' | 'flush'>;
  readonly #deleted: (id: string) => Promise<void>;
  readonly #clock: Clock;
  readonly #retention: Retention;

  /** @param deleted called for every conversation deleted from the database */
  constructor(
    repository: ConversationRepository,
    pending: Pick<PendingTurns, 'has' | 'flush'>,
    clock: Clock,
    retention: Retention,
    deleted: (id: string) => Promise<void> = async () => {},
  ) {
    this.#repository = repository;
    this.#pending = pending;
    this.#deleted = deleted;
    this.#clock = clock;
    this.#retention = retention;
  }

  /** @throws AppError `conversation_not_found` */
  async get(id: string, access: Access, afterSeq: number, limit: number): Promise<ConversationPage> {
    const conversation = await this.#find(id, access);
    const { messages, hasMore } = await this.#repository.messages(conversation, afterSeq, limit, PAGE_BYTES);
    const next = hasMore ? (messages.at(-1)?.seq ?? null) : null;
    return { ...this.#view(conversation), messages, next };
  }

  /** Without its messages. @throws AppError `conversation_not_found` */
  async view(id: string, access: Access): Promise<ConversationView> {
    return this.#view(await this.#find(id, access));
  }

  async #find(id: string, access: Access): Promise<FoundConversation> {
    await waitForReplay(this.#pending, id);
    const conversation = await this.#repository.find(id);
    if (!conversation || !canAccess(access, conversation.owner)) throw conversationNotFound();
    if (this.#expired(conversation)) throw conversationNotFound();
    return conversation;
  }

  async list(access: Access, limit: number, before: ConversationCursor | null): Promise<ConversationList> {
    const rows = await this.#repository.list(access, limit + 1, before, this.#activeSince());
    const page = rows.slice(0, limit);
    const last = rows.length > limit ? page.at(-1) : undefined;
    return {
      conversations: page.map((row) => this.#view(row)),
      next: last ? { lastActive: last.lastActive, id: last.id } : null,
    };
  }

  /** @throws AppError `conversation_not_found` */
  async delete(id: string, access: Access): Promise<void> {
    await waitForReplay(this.#pending, id);
    const conversation = await this.#repository.find(id);
    const deleted = conversation !== null && (await this.#repository.delete(id, access));
    if (deleted) await this.#deleted(id);
    if (!deleted || this.#expired(conversation)) throw conversationNotFound();
  }

  #activeSince(): Instant {
    return this.#retention.activeSince(this.#clock.now());
  }

  #expired(conversation: Conversation): boolean {
    return conversation.lastActive < this.#activeSince();
  }

  #view(conversation: Conversation): ConversationView {
    return { ...conversation, expiresAt: this.#retention.expiresAt(conversation.lastActive) };
  }
}
