import type { Access } from '../access/access.ts';
import type {
  Conversation,
  FinishReason,
  Instant,
  Message,
  MessageDetails,
  MessageStatus,
  Usage,
} from '../conversations/conversation.ts';

/** What a turn changes of its conversation. */
interface ChangedSettings {
  /** The caller's end user, stored with the conversation once. */
  readonly user?: string;
  /** Merged into that of the conversation. */
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface TurnStart extends ChangedSettings {
  readonly conversationId: string;
  /**
   * False: this server has just created the id, so no such conversation exists. True: the caller named it. The
   * conversation is then continued, or created when it is unknown; one last active before `expiredBefore` is deleted
   * and created again.
   */
  readonly named: boolean;
  readonly expiredBefore: Instant;
  /** The caller, who must have access to an existing conversation, and owns a new one. */
  readonly by: Access;
  readonly message: Message;
  /** What is stored before `message`, which is the last one: results of tools, or the history of the caller. */
  readonly earlier?: readonly Message[];
  /** The uid of the reply whose calls they answer; without it nothing is written (`gone`). */
  readonly answers?: string;
  /** The system prompt of a conversation that begins with the turn. */
  readonly system?: string;
}

/** The most members of the metadata of a conversation. */
export const MAX_METADATA = 16;

/**
 * The start of a turn that takes the place of stored messages: of those that {@link MessageDetails.supersedes} of its
 * reply names. They stay visible, and the new ones invisible, until the reply has its first text or has ended.
 */
export interface Revision extends ChangedSettings {
  readonly expiredBefore: Instant;
  readonly by: Access;
  /** The edited question; undefined: the stored one gets another reply. */
  readonly message: Message | undefined;
}

/** Both are SHA-256: 64 hexadecimal digits. */
export interface IdempotencyKey {
  /** Of the key, the route and the caller. */
  readonly id: string;
  /** Of the request. */
  readonly bodyHash: string;
}

/** Claims an idempotency key for a turn, in the transaction that starts it. */
export interface KeyClaim extends IdempotencyKey {
  /** Whether the reply came from the response cache. */
  readonly cached: boolean;
  /** The failed reply that is deleted and generated again; null: the key must be free. */
  readonly replaces: string | null;
  /** A key whose conversation was last active before this is free. */
  readonly expiredBefore: Instant;
}

/** One transaction: the start of a turn, its reply, or both. */
export interface TurnWrite {
  readonly start?: TurnStart;
  /** In place of a start, with a reply that is `streaming`. */
  readonly revision?: Revision;
  /** With status `streaming` the start of a reply, else its end. `replyTo` is the uid of the user message. */
  readonly reply?: Message;
  /** Only with a start, or with a reply that is generated again. */
  readonly key?: KeyClaim;
  /**
   * The process that generates the reply; required with status `streaming`. With an end without a start: it has stored
   * the start, so that a reply whose row is missing was replaced.
   */
  readonly worker?: string;
  /** The hash that the history of the conversation must have (`moved`). */
  readonly expects?: string;
  /** When the turn was last active, if later than its messages. */
  readonly activeAt?: Instant;
  /** Replayed from the journal: deleted conversations are not created again. */
  readonly replayed?: boolean;
}

/**
 * - `saved`: committed.
 * - `journalled`: on this host's disk, because the database is unavailable; it is replayed later.
 * - `gone`: the conversation or the user message was deleted; nothing was written.
 * - `replaced`: the reply was removed, because a request with the same idempotency key has another one; nothing was
 *   written.
 * - `stopped`: saved, but the reply is cancelled and keeps that status.
 * - `taken`: another request has the idempotency key; nothing was written.
 * - `foreign`: another owner has the conversation; nothing was written.
 * - `other_user`: the conversation has another end user; nothing was written.
 * - `metadata_full`: the conversation would have too many members of metadata; nothing was written.
 * - `moved`: the conversation has another history than expected, or is gone; nothing was written.
 *
 * Of a revision or the results of tools, and nothing was written:
 * - `missing`: the conversation has no such message.
 * - `superseded`: another revision has taken its place.
 * - `busy`: a reply of the conversation is being generated.
 * - `answered`: the conversation has a later reply than the one whose calls are answered.
 */
export type WriteOutcome =
  | 'saved'
  | 'journalled'
  | 'gone'
  | 'replaced'
  | 'stopped'
  | 'taken'
  | 'foreign'
  | 'moved'
  | 'other_user'
  | 'metadata_full'
  | 'missing'
  | 'superseded'
  | 'busy'
  | 'answered';

export interface ReplyProgress {
  readonly uid: string;
  /** As {@link MessageDetails.supersedes}. */
  readonly supersedes?: string | undefined;
  readonly worker: string;
  /** The text after that many UTF-16 units. Called when it is written. */
  after(length: number): string;
  /** As {@link after}, of the reasoning. */
  reasoningAfter(length: number): string;
}

/** `stopped`: the reply was cancelled; `gone`: it was removed, perhaps with its conversation. In both cases nothing was written. */
export type ProgressOutcome = 'saved' | 'stopped' | 'gone';

/** Group commit: writes that arrive during a transaction share the next one. */
export interface TurnWriter {
  /**
   * Resolves after the commit. Repeating a write with the same uids changes nothing.
   * @param since when the unit arrived, on the monotonic clock; its wait for locks counts from then. Default: now
   * @throws AppError `database_unavailable`, `database_busy`
   */
  write(unit: TurnWrite, since?: number): Promise<WriteOutcome>;
  /** Appends to a stored reply. Has lower priority than `write`. @throws AppError `database_unavailable` */
  progress(reply: ReplyProgress): Promise<ProgressOutcome>;
  /** Resolves when every write has succeeded or failed. */
  idle(): Promise<void>;
}

export interface StoredReply {
  readonly message: Message;
  readonly conversation: Conversation;
  /** It was cancelled, and its process may still append to it. */
  readonly settling: boolean;
  /** Another reply has taken its place; the status of the message is the one before. */
  readonly superseded: boolean;
}

/** In code points, as databases count. */
export interface TailPosition {
  readonly content: number;
  readonly reasoning: number;
}

export interface ReplyTail {
  readonly content: string;
  readonly reasoning: string | null;
  /** As {@link StoredReply.settling}. */
  readonly settling: boolean;
  readonly status: MessageStatus;
  readonly model: string | null;
  readonly finishReason: FinishReason | null;
  readonly usage: Usage | null;
  readonly details: MessageDetails | null;
}

/** An idempotency key in use, with its turn. */
export interface StoredKey {
  readonly bodyHash: string;
  readonly cached: boolean;
  readonly conversationId: string;
  readonly questionId: string;
  readonly replyId: string;
}

/** Rejects with AppError `database_unavailable`. */
export interface ReplyStore {
  find(uid: string): Promise<StoredReply | null>;
  /** @param after the numbers of code points to skip */
  tail(uid: string, after: TailPosition): Promise<ReplyTail | null>;
  /** Marks a `streaming` reply `cancelled`; false when it has another status or does not exist. */
  cancel(uid: string): Promise<boolean>;
  /** Tells the process that generates the reply that this one has a reader of its stream. */
  noteFollowed(reply: Pick<Message, 'uid' | 'details'>): Promise<void>;
  /** Whether the conversation of a reply that is not stored any more is the same as when the reply began. */
  wasRemovedAlone(reply: Pick<Message, 'conversationId' | 'timestamp'>): Promise<boolean>;
  /** The replies of a process that another process has ended. */
  endedElsewhere(worker: string): Promise<string[]>;
  key(id: string, activeSince: Instant): Promise<StoredKey | null>;
}

export interface PendingConversation {
  readonly owner: string | null;
  readonly messages: Message[];
  readonly user: string | null;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly system: string | null;
}

/** The turns in this host's journal. */
export interface PendingTurns {
  /** Whether any turn of the conversation is in the journal. */
  has(conversationId: string): boolean;
  /**
   * A conversation that began in the journal, with its messages, oldest first, each in its last state. Null when it
   * began earlier, so that the database has more of it.
   */
  conversation(conversationId: string): PendingConversation | null;
  reply(uid: string): Message | null;
  state(): { readonly turns: number; readonly bytes: number; readonly oldest: Instant | null };
  /** Resolves when the journal is empty; rejects with AppError `database_unavailable` after `ms`. */
  flush(ms: number): Promise<void>;
}

const REPLAY_WAIT_MS = 5000;

/**
 * Waits until the database has every turn of a conversation.
 * @throws AppError `database_unavailable`
 */
export async function waitForReplay(
  pending: Pick<PendingTurns, 'has' | 'flush'>,
  conversationId: string,
): Promise<void> {
  if (pending.has(conversationId)) await pending.flush(REPLAY_WAIT_MS);
}
