import type {
  ConversationSettings,
  Feedback,
  Instant,
  Message,
  MessageDetails,
  MessageStatus,
  Role,
} from './conversation.ts';

export type ImportedMessage = Omit<Message, 'conversationId'> & { readonly feedback: Feedback | null };

export interface ImportedConversation {
  readonly id: string;
  readonly createdAt: Instant;
  readonly lastActive: Instant;
  readonly pinned: boolean;
  readonly settings: ConversationSettings;
  /** Oldest first. Those of a long one can be read once. */
  readonly messages: Iterable<ImportedMessage> | AsyncIterable<ImportedMessage>;
  /** Whether it is too long for one piece of work. */
  readonly isLong: boolean;
}

export interface ImportOptions {
  /** Of new conversations. */
  readonly owner: string | null;
  /** Whether a conversation that exists is replaced; it is skipped otherwise. */
  readonly replace: boolean;
  /** Whether a replaced conversation gets `owner` too. It keeps its own otherwise. */
  readonly replacesOwner: boolean;
}

export type ImportOutcome = 'imported' | 'replaced' | 'skipped';

/** A conversation that cannot be imported. The message is for the caller. */
export class ImportError extends Error {}

/** The id of a message exists in another conversation. */
export class MessageTakenError extends ImportError {
  constructor(uid: string) {
    super(`the message ${uid} exists in another conversation`);
  }
}

export type ImportResult =
  | { readonly outcome: ImportOutcome; readonly messages: number }
  | { readonly error: ImportError };

export interface ImportStore {
  /**
   * Writes conversations with different ids, each whole or not at all. The id of a deleted one is free.
   * @returns a result for each, in order; an error when a message id is taken or occurs twice, or a message is too long
   * @throws AppError `database_unavailable`, `database_busy`
   */
  write(
    conversations: readonly ImportedConversation[],
    options: ImportOptions,
  ): Promise<readonly ImportResult[]>;
}

interface OrderedMessage {
  readonly uid: string;
  readonly role: Role | string;
  readonly status: MessageStatus | string;
  readonly details: MessageDetails | null | undefined;
}

/**
 * What a message replies to, by the messages before it: a reply to the newest question or result of a tool, a result to
 * the newest reply with calls. Exports name it only where it differs.
 */
export class ReplyOrder {
  #asked: string | undefined;
  #visiblyAsked: string | undefined;
  #calling: string | undefined;

  /** Undefined: nothing before it. */
  expected({ role, status }: Pick<OrderedMessage, 'role' | 'status'>): string | undefined {
    if (role === 'user' || role === 'system') return undefined;
    if (role === 'tool') return this.#calling;
    return status === 'superseded' ? this.#asked : this.#visiblyAsked;
  }

  add({ uid, role, status, details }: OrderedMessage): void {
    if (role === 'system') return;
    if (role !== 'assistant') {
      this.#asked = uid;
      if (status !== 'superseded') this.#visiblyAsked = uid;
    } else if (details?.tool_calls) this.#calling = uid;
  }
}
