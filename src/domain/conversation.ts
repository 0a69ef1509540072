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
