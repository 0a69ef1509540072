import type { ReplyStore } from '../../domain/chat/turns.ts';
import type {
  FinishReason,
  Instant,
  Message,
  ReplyFormat,
  ToolCall,
  Usage,
} from '../../domain/conversations/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { CacheUse } from './generations.ts';
import type { Reply } from './reply.ts';
import type { TurnTimes } from './timing/turn-times.ts';

/** The end of a turn. */
export interface TurnResult {
  readonly content: string;
  /** Null without any. */
  readonly reasoning: string | null;
  readonly finishReason: FinishReason;
  /** Only with the finish reason `tool_calls`. */
  readonly toolCalls?: readonly ToolCall[] | undefined;
  /** The text is the model's refusal. */
  readonly refusal?: true | undefined;
  readonly usage: Usage | null;
  readonly model: string;
  /** False: the turn is in the journal of this host, and not yet in the database. */
  readonly persisted: boolean;
  readonly expiresAt: Instant | null;
}

/** A user message and its reply. The reply is being generated in this process or in another one, or has ended. */
export interface Turn {
  readonly conversationId: string;
  /** Null when the caller has access to every conversation; then only the database knows the owner. */
  readonly owner: string | null;
  /** The id of the reply and of its stream. */
  readonly messageId: string;
  /** The id of the message that it replies to; null where it is not known. */
  readonly questionId: string | null;
  /** The requested model. */
  readonly model: string;
  /** The format that the offsets of its stream count. */
  readonly format: ReplyFormat;
  /** Whether the caller gets the reasoning too. */
  readonly wantsReasoning: boolean;
  readonly reply: Reply;
  /** Resolves when the user message is stored; rejects when it cannot be stored. */
  readonly started: Promise<unknown>;
  /**
   * Resolves when the reply has ended and is saved. Rejects with the AppError of a failed reply, after its text was
   * saved, or with the error of the save.
   */
  readonly result: Promise<TurnResult>;
  /** What the response cache did; undefined when the turn existed before the request. */
  readonly cache: CacheUse | undefined;
  /** Undefined when the turn existed before the request. */
  readonly times: TurnTimes | undefined;
  /** False: nothing of it is stored, and no caller gets its ids. */
  readonly isStored: boolean;
  /** Whether the reply came from the response cache. */
  readonly cached: boolean;
  /** Whether an earlier request with the same idempotency key created the turn. */
  readonly replayed: boolean;
  /** Each reader calls it once, when it has finished. */
  release(): void;
}

export function conversationDeleted(): AppError {
  return new AppError('conversation_not_found', 'The conversation was deleted');
}

/**
 * For a reply that is no longer stored: a request with the same idempotency key replaced it, or it failed without text.
 */
export function replyRemoved(): AppError {
  const detail =
    'The reply broke off and is not stored; read the conversation for one that has replaced it, or ask again';
  return new AppError('reply_incomplete', detail);
}

/** Which error a reply gets that is no longer stored. Rejects with AppError `database_unavailable`. */
export async function missingReply(
  replies: Pick<ReplyStore, 'wasRemovedAlone'>,
  reply: Pick<Message, 'conversationId' | 'timestamp'>,
): Promise<AppError> {
  return (await replies.wasRemovedAlone(reply)) ? replyRemoved() : conversationDeleted();
}

/** Marks the rejection as handled, because the promise may not be awaited yet. */
export function withoutUnhandledRejection<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}
