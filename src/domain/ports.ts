/** What the services need from the world. Implemented in db/, llm/, cache/, text/ and csv/; faked in unit tests. */
import type { Access } from './access.ts';
import type {
  ContextMessage,
  Conversation,
  FinishReason,
  Instant,
  Message,
  MessageStatus,
  Role,
  Usage,
} from './conversation.ts';

/** A message with its place in the conversation: `seq` is the row number, growing, never reused. */
export interface SequencedMessage extends Message {
  readonly seq: number;
}

/** Where a page of conversations (newest activity first) goes on. */
export interface ConversationCursor {
  readonly lastActive: Instant;
  readonly id: string;
}

/** Reads and the delete. Every method rejects with AppError `database_unavailable` when the database is away. */
export interface ConversationRepository {
  /** The conversation, expired or not; null when there is none. */
  find(id: string): Promise<Conversation | null>;
  /**
   * The newest whole turns (user message and its reply, paired by `replyTo`), at most `limit` messages, oldest
   * first; empty when the conversation is unknown or was last active before `activeSince`.
   * A turn without a reply, or whose reply is empty or still streaming, is left out, and so is the one whose user
   * message is `except` (a question that is asked again is no context of itself).
   * @throws AppError `conversation_not_found` when the conversation is somebody else's
   */
  history(
    id: string,
    access: Access,
    limit: number,
    activeSince: Instant,
    except?: string,
  ): Promise<ContextMessage[]>;
  /** Messages after `afterSeq` (0: from the first), oldest first, at most `limit`. */
  messages(id: string, afterSeq: number, limit: number): Promise<SequencedMessage[]>;
  /** Those open to `access`, last active at `activeSince` or later, newest activity first, then by id descending. */
  list(
    access: Access,
    limit: number,
    before: ConversationCursor | null,
    activeSince: Instant,
  ): Promise<Conversation[]>;
  /** Deletes the conversation with all its messages. False when there was none that is open to `access`. */
  delete(id: string, access: Access): Promise<boolean>;
  /** Resolves when the database answers and its schema is the one this version needs. */
  check(): Promise<void>;
}

export interface PurgeCount {
  readonly conversations: number;
  readonly messages: number;
}

export interface PurgeStore {
  /** Counts what is last active before `cutoff`, changing nothing. */
  countExpired(cutoff: Instant): Promise<PurgeCount>;
  /**
   * Deletes up to `limit` conversations last active before `cutoff`, with their messages; the activity is checked
   * again inside the delete, and one that a reply is being written to is left alone. Both numbers are 0 when nothing
   * is left.
   * @param keep gets those that are to be deleted, a few at a time, outside of any transaction. When it rejects,
   * nothing is deleted; what changes after it was called is spared, and given to it again later.
   */
  deleteExpired(
    cutoff: Instant,
    limit: number,
    keep?: (ids: readonly string[]) => Promise<void>,
  ): Promise<PurgeCount>;
  /** Forgets up to `limit` of the deletions noted before `before`, and tells how many. */
  forgetDeletions(before: Instant, limit: number): Promise<number>;
  /** Runs `work` while no other process of this database purges; resolves to false, without running it, if one does. */
  exclusively(work: () => Promise<void>): Promise<boolean>;
}

/** Conversations on their way to the archive. */
export interface ArchiveBatch {
  /** Lines of JSON; may be read once. */
  readonly lines: AsyncIterable<string>;
  /** Of what was read so far. */
  counts(): PurgeCount & { readonly firstMessageId: string | null; readonly lastMessageId: string | null };
}

/** Where purged conversations are kept: a file for each day (UTC) on this host. One process at a time may use it. */
export interface PurgeArchive {
  /**
   * Appends to the file of that day. Resolves when all of it is on the disk. After a rejection (with the error of the
   * file system, `code` included, or of the lines) the archive is what it was before.
   */
  append(at: Instant, batch: ArchiveBatch): Promise<void>;
}

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
  /** Rejects with the signal's reason when that breaks it off. */
  count(
    scope: ExportScope,
    signal?: AbortSignal,
  ): Promise<{ readonly conversations: number; readonly messages: number }>;
}

/** RFC 4180. */
export interface CsvFormat {
  /** The rows as lines, each ended by CRLF. */
  lines(rows: readonly (readonly string[])[]): string;
}

/** What is sent to the model server; also what a cached reply is a reply to. */
export interface ModelRequest {
  readonly model: string;
  readonly messages: readonly ContextMessage[];
  readonly temperature?: number;
  readonly maxTokens?: number;
}

export interface ModelOutcome {
  readonly finishReason: FinishReason;
  readonly usage: Usage | null;
  /** The model's own name for itself, where it says so; else the one asked for. */
  readonly model: string;
  /** True when a cap of this server (bytes or time) ended the reply; `finishReason` is then `length`. */
  readonly truncated: boolean;
}

export interface ModelReply extends ModelOutcome {
  readonly content: string;
}

/**
 * Rejections are AppErrors: `upstream_error`, `upstream_rejected`, `upstream_busy` (with retryAfter),
 * `upstream_timeout`, `upstream_incomplete`, `upstream_empty`. An abort by the signal rejects with its reason.
 */
export interface ChatModel {
  /** The whole reply at once. */
  complete(request: ModelRequest, signal: AbortSignal): Promise<ModelReply>;
  /**
   * The reply as it comes. `onDelta` gets non-empty, well-formed pieces (no lone surrogate, no split pair) and must
   * not throw; after a rejection what it got so far is what was said.
   */
  stream(request: ModelRequest, onDelta: (text: string) => void, signal: AbortSignal): Promise<ModelOutcome>;
  /** Whether the model server answers at all; for /health/ready. Never throws. */
  reachable(signal: AbortSignal): Promise<boolean>;
}

/** Takes the marks out of Markdown while it arrives. */
export interface TextStream {
  /** Feeds a piece and returns what cannot change any more. */
  push(markdown: string): string;
  /** The rest. */
  end(): string;
}

export interface TextFormat {
  stream(): TextStream;
  whole(markdown: string): string;
}

export interface Clock {
  /** Wall clock, epoch milliseconds. */
  now(): Instant;
}

export interface IdSource {
  /** A new lower-case UUIDv7. */
  next(): string;
}

export interface CacheHit {
  readonly reply: ModelReply;
  /** How long it would still be served, milliseconds. */
  readonly ttlMs: number;
}

/** Complete replies by what was sent to the model. Holds nothing when the cache is turned off. */
export interface ResponseCache {
  readonly enabled: boolean;
  /**
   * The key of exactly this request: equal requests and no others have equal keys.
   * @param owner whose replies they are, where nobody gets what another one was told
   */
  keyOf(request: ModelRequest, owner: string | null): string;
  get(key: string): CacheHit | undefined;
  set(key: string, reply: ModelReply): void;
}

/** What the services log; pino's logger is one. Never bodies, keys or prompts. */
export interface Log {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}
