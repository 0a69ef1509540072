/** What is exported, and the port that reads it. */
import type {
  ConversationSettings,
  Counts,
  Feedback,
  Instant,
  MessageDetails,
  MessageStatus,
  Role,
} from '../conversations/conversation.ts';

/** Null means no restriction. */
export interface ExportFilter {
  readonly owner: string | null;
  /** Inclusive bounds of the conversation's `createdAt`. */
  readonly from: Instant | null;
  readonly to: Instant | null;
  /** With `role` or `status`, conversations without such a message are left out. */
  readonly role: Role | null;
  readonly status: MessageStatus | null;
  /** Replies with this rating, and their questions. */
  readonly rating?: Feedback['rating'] | null;
}

/** Fixed when an export starts, so that new conversations cannot keep it from ending. */
export interface ExportScope {
  readonly filter: ExportFilter;
  /** Null means all conversations. */
  readonly conversationId: string | null;
  /** Conversations last active earlier are left out. */
  readonly activeSince: Instant;
  readonly lastCreated: Instant;
  /** Only changes after this cursor; null means everything. */
  readonly since: ExportCursor | null;
}

/** The start of an incremental export: the end of an earlier one. */
export interface ExportCursor {
  /** When that export fixed its scope. */
  readonly at: Instant;
}

/** A deleted or purged conversation; the time is RFC 3339. */
export interface ExportDeletion {
  readonly id: string;
  readonly deletedAt: string;
}

/** Times are RFC 3339 text, because two conversions a row cost more than the rest of an export. */
export interface ExportConversation {
  readonly id: string;
  readonly createdAt: string;
  readonly lastActive: string;
  /** Undefined: it is not pinned, and nothing is set. */
  readonly settings?: ConversationSettings & { readonly pinned: boolean };
}

export interface ExportMessage {
  readonly uid: string;
  readonly role: string;
  readonly content: string;
  readonly timestamp: string;
  readonly status: string;
  readonly replyTo?: string | null;
  /** Undefined: it has none of them. */
  readonly more?: MessageExtras;
}

/** What a message has beside its text. */
export interface MessageExtras {
  readonly model: string | null;
  readonly finishReason: string | null;
  /** JSON. */
  readonly usage: string | null;
  readonly reasoning: string | null;
  readonly details: MessageDetails | null;
  readonly feedback: Feedback | null;
}

/** A conversation, or part of a long one. */
export interface ExportPart {
  readonly conversation: ExportConversation;
  readonly messages: readonly ExportMessage[];
  readonly begins: boolean;
  readonly ends: boolean;
}

/** Parts that are read together; none where nothing matches. */
export interface ExportPage {
  readonly parts: readonly ExportPart[];
  /** All conversations up to this one are complete; null inside a conversation. */
  readonly position: ExportPosition | null;
}

/** The last conversation that an export has completed, or has left out. */
export interface ExportPosition {
  /** {@link ExportConversation.createdAt} */
  readonly createdAt: string;
  readonly id: string;
}

export function pageOf(parts: readonly ExportPart[]): ExportPage {
  const last = parts.at(-1);
  return { parts, position: last?.ends ? last.conversation : null };
}

/** Reads in small steps; between them it holds neither a connection nor a transaction. */
export interface ExportSource {
  /** @throws AppError `database_unavailable` */
  scope(
    filter: ExportFilter,
    conversationId: string | null,
    activeSince: Instant,
    since?: ExportCursor | null,
  ): Promise<ExportScope>;
  /** Deletions since the cursor, oldest first; may repeat earlier ones. A null owner means all owners. */
  deletions(since: ExportCursor, owner: string | null): AsyncIterable<readonly ExportDeletion[]>;
  /**
   * Conversations by `createdAt`, then id; their messages oldest first. Yields every row that exists during the whole
   * export exactly once; a row that is added, changed or deleted meanwhile appears in either state.
   * @param after continues after this conversation
   */
  read(scope: ExportScope, after?: ExportPosition | null): AsyncIterable<ExportPage>;
  /** Rejects with the signal's reason when it is aborted. @param onPage called at each page */
  count(scope: ExportScope, signal?: AbortSignal, onPage?: () => void): Promise<Counts>;
}
