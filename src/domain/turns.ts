/** How a question and its reply come to be stored: what is written, what is read back of it, and the ports for both. */
import type { Access } from './access.ts';
import type { Conversation, FinishReason, Instant, Message, MessageStatus, Usage } from './conversation.ts';

/** A user message to be stored, with the conversation that it starts or goes on with. */
export interface TurnStart {
  readonly conversationId: string;
  /**
   * False when this server made the id a moment ago, so that nothing can be there yet. True for an id that the
   * caller named: it is gone on with, or started anew when it is unknown or was last active before `expiredBefore`
   * (its old messages are then deleted first).
   */
  readonly named: boolean;
  readonly expiredBefore: Instant;
  /** Whoever asks: a conversation that is there must be open to them, a new one will be theirs. */
  readonly by: Access;
  readonly message: Message;
}

/** Claims an idempotency key for a turn, in the transaction that begins it. */
export interface KeyClaim {
  /** A hash of the key, of the route and of whoever sent it: 64 hexadecimal digits. */
  readonly id: string;
  /** A hash of what was asked: 64 hexadecimal digits. */
  readonly bodyHash: string;
  /** Whether the reply came from the response cache; a repeated request is told the same. */
  readonly cached: boolean;
  /** The reply that failed and is tried again; null: the key must be free. */
  readonly replaces: string | null;
  /** A key whose conversation was last active before is free again. */
  readonly expiredBefore: Instant;
}

/** What is written together: the start of a turn, its reply, or both at once. */
export interface TurnWrite {
  readonly start?: TurnStart;
  /**
   * With status `streaming` it begins a reply, else it is its end. Its `replyTo` names the user message; both belong
   * to one conversation.
   */
  readonly reply?: Message;
  /** Only with a start, or with a reply that is tried again. */
  readonly key?: KeyClaim;
  /** The process that writes the reply on; with every reply of status `streaming`. */
  readonly worker?: string;
  /** When the turn was last active, where that is later than its messages. */
  readonly activeAt?: Instant;
  /** It waited in the journal: whatever was deleted since it was said is not brought back. */
  readonly replayed?: boolean;
}

/**
 * `saved`: everything is committed. `journalled`: the database is away; it is safe on this host and will be written
 * when the database is back. `gone`: the conversation, or the message the reply answers, was deleted in the meantime;
 * nothing was written, and nothing was brought back. `stopped`: saved, but somebody had stopped the reply, and its
 * status stays `cancelled`. `taken`: another request has the idempotency key; nothing was written. `foreign`: the
 * conversation is somebody else's; nothing was written.
 */
export type WriteOutcome = 'saved' | 'journalled' | 'gone' | 'stopped' | 'taken' | 'foreign';

/** A reply that grew. */
export interface ReplyProgress {
  readonly uid: string;
  readonly worker: string;
  /** What the reply says after that many UTF-16 units of it, up to now. Asked at the time of writing. */
  after(length: number): string;
}

/** `stopped`: somebody stopped the reply elsewhere; `gone`: it was deleted. In both cases nothing was written. */
export type ProgressOutcome = 'saved' | 'stopped' | 'gone';

/** Group commit: what waits while one transaction commits goes together in the next. */
export interface TurnWriter {
  /**
   * Resolves after the commit. Repeating a write with the same uids changes nothing.
   * @throws AppError `database_unavailable`
   */
  write(unit: TurnWrite): Promise<WriteOutcome>;
  /** Appends what is new to a reply that was begun. Gives way to `write`. @throws AppError `database_unavailable` */
  progress(reply: ReplyProgress): Promise<ProgressOutcome>;
  /** Resolves when everything handed in has been written or has failed. */
  idle(): Promise<void>;
}

/** A reply as it is stored, with the conversation it belongs to. */
export interface StoredReply {
  readonly message: Message;
  readonly conversation: Conversation;
  /** Whether its process may still add to it, although somebody has stopped it. */
  readonly settling: boolean;
}

/** What came to a stored reply since somebody looked last. */
export interface ReplyTail {
  readonly content: string;
  /** As for {@link StoredReply}. */
  readonly settling: boolean;
  readonly status: MessageStatus;
  readonly model: string | null;
  readonly finishReason: FinishReason | null;
  readonly usage: Usage | null;
}

/** An idempotency key that is in use. */
export interface StoredKey {
  readonly bodyHash: string;
  readonly cached: boolean;
  readonly conversationId: string;
  /** The uid of the user message. */
  readonly questionId: string;
  readonly replyId: string;
}

/** Replies by their uid, and the keys that lead to them. Rejects with AppError `database_unavailable`. */
export interface ReplyStore {
  find(uid: string): Promise<StoredReply | null>;
  /** @param afterChars how many characters (code points) of it are known */
  tail(uid: string, afterChars: number): Promise<ReplyTail | null>;
  /** Marks it `cancelled` if it is `streaming`; false when it is not, or not there. */
  cancel(uid: string): Promise<boolean>;
  /** Of the replies that a process writes, those that somebody else has ended. */
  endedElsewhere(worker: string): Promise<string[]>;
  key(id: string, activeSince: Instant): Promise<StoredKey | null>;
}

/** What waits on this host for the database to come back. */
export interface PendingTurns {
  /** Whether anything of the conversation waits. */
  has(conversationId: string): boolean;
  /**
   * The messages of a conversation that began while the database was away, oldest first, a reply's last state only;
   * null when it did not, so that the database knows more of it.
   */
  messages(conversationId: string): Message[] | null;
  /** To whom it belongs as far as what waits tells; undefined when nothing that waits began it. */
  ownerOf(conversationId: string): string | null | undefined;
  /** A reply that waits. */
  reply(uid: string): Message | null;
  /** Whether anything waits, and how much. */
  state(): { readonly turns: number; readonly bytes: number; readonly oldest: Instant | null };
  /** Resolves when nothing waits; rejects with AppError `database_unavailable` after `ms`. */
  flush(ms: number): Promise<void>;
}
