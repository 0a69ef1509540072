import type { Access } from './access.ts';

/** All times in the domain are epoch milliseconds, UTC; the edges format them. */
export type Instant = number;

export type Role = 'user' | 'assistant';

/** `streaming`: still being written; `incomplete`: broken off by a fault or a cap; `cancelled`: stopped by a caller. */
export type MessageStatus = 'complete' | 'streaming' | 'incomplete' | 'cancelled';

export type FinishReason = 'stop' | 'length' | 'content_filter' | 'cancelled' | 'error';

/** In which form a caller reads a reply. What is stored is always the model's own Markdown. */
export type ReplyFormat = 'markdown' | 'text';

/** Token counts as the model server reports them. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

export interface Conversation {
  readonly id: string;
  readonly owner: string | null;
  readonly createdAt: Instant;
  readonly lastActive: Instant;
}

export interface Message {
  /** UUIDv7, the public id; what makes every write repeatable. */
  readonly uid: string;
  readonly conversationId: string;
  readonly role: Role;
  /** The model's or the user's own text, byte for byte; for a reply always Markdown. */
  readonly content: string;
  readonly timestamp: Instant;
  readonly status: MessageStatus;
  /** For a reply: the uid of the user message it answers. */
  readonly replyTo: string | null;
  readonly model: string | null;
  readonly finishReason: FinishReason | null;
  readonly usage: Usage | null;
  /** For a reply: the form it was asked for in, which the offsets of its stream count. Null where nobody said. */
  readonly format: ReplyFormat | null;
}

/** A message as the model sees it. */
export interface ContextMessage {
  readonly role: 'system' | Role;
  readonly content: string;
}

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
