/** What is exported, and the port that reads it. */
import type { Instant, MessageStatus, Role } from '../conversations/conversation.ts';

/** What of all conversations is exported; null: no bound. */
export interface ExportFilter {
  /** Only what belongs to them. */
  readonly owner: string | null;
  /** Both bounds are included and mean the conversation's `createdAt`. */
  readonly from: Instant | null;
  readonly to: Instant | null;
  /** With one of these two, conversations without such a message are left out. */
  readonly role: Role | null;
  readonly status: MessageStatus | null;
}

/** Where an export ends, fixed when it starts, so that what comes meanwhile cannot keep it from ending. */
export interface ExportScope {
  readonly filter: ExportFilter;
  /** Only this conversation; null: all. */
  readonly conversationId: string | null;
  /** Those last active before are left out. */
  readonly activeSince: Instant;
  readonly lastSeq: number;
  readonly lastCreated: Instant;
  /** Only what came or changed after it; null: everything. */
  readonly since: ExportCursor | null;
}

/** Where an incremental export begins: what came or changed since the export that had this cursor. */
export interface ExportCursor {
  /** All messages up to this row number were in, in their last state. */
  readonly seq: number;
  /** When that export fixed its scope. */
  readonly at: Instant;
}

/** A conversation that was deleted or purged; its time is RFC 3339. */
export interface ExportDeletion {
  readonly id: string;
  readonly deletedAt: string;
}

/** Its times are RFC 3339 text already: over millions of rows, two conversions cost more than all the rest. */
export interface ExportConversation {
  readonly id: string;
  readonly createdAt: string;
  readonly lastActive: string;
}

export interface ExportMessage {
  readonly uid: string;
  readonly role: string;
  readonly content: string;
  readonly timestamp: string;
  readonly status: string;
}

/** A conversation, or a piece of a long one. */
export interface ExportPart {
  readonly conversation: ExportConversation;
  readonly messages: readonly ExportMessage[];
  readonly begins: boolean;
  readonly ends: boolean;
}

/** The conversation that an export has put behind itself. */
export interface ExportPosition {
  /** Its `createdAt`, as {@link ExportConversation} has it. */
  readonly createdAt: string;
  readonly id: string;
}

/** Reads much in small steps: no connection is held and no transaction is open between two of them. */
export interface ExportSource {
  /** @throws AppError `database_unavailable` */
  scope(
    filter: ExportFilter,
    conversationId: string | null,
    activeSince: Instant,
    since?: ExportCursor | null,
  ): Promise<ExportScope>;
  /** From where the next export goes on so that it misses nothing, not even what commits late. */
  cursor(now: Instant): Promise<ExportCursor>;
  /** What was deleted since (of that owner; null: of all), oldest first; some of it may have been told before. */
  deletions(since: ExportCursor, owner: string | null): AsyncIterable<readonly ExportDeletion[]>;
  /**
   * Conversations by `createdAt`, then id, their messages oldest first. No row comes twice, and every row that is
   * there from start to end comes; what is deleted or changed meanwhile may show either way.
   * @param after goes on behind that conversation
   */
  read(scope: ExportScope, after?: ExportPosition | null): AsyncIterable<readonly ExportPart[]>;
  /** Rejects with the signal's reason when that is aborted. @param onPage called at each page */
  count(
    scope: ExportScope,
    signal?: AbortSignal,
    onPage?: () => void,
  ): Promise<{ readonly conversations: number; readonly messages: number }>;
}
