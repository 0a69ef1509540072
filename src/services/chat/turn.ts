import type { FinishReason, Instant, ReplyFormat, Usage } from '../../domain/conversation.ts';
import type { CacheUse } from './generations.ts';
import type { Reply } from './reply.ts';

/** What a reply came to. */
export interface TurnResult {
  readonly content: string;
  readonly finishReason: FinishReason;
  readonly usage: Usage | null;
  readonly model: string;
  /** Whether the turn is in the database. False: it is in this host's journal. */
  readonly persisted: boolean;
  readonly expiresAt: Instant | null;
}

/** A reply that can be read along, whether it is being made here, elsewhere, or is stored. */
export interface ReplyStream {
  readonly conversationId: string;
  /** Whose it is; null where only the database knows: somebody to whom everything is open asked. */
  readonly owner: string | null;
  /** The reply's public id; the id of its stream too. */
  readonly messageId: string;
  /** The model that was asked. */
  readonly model: string;
  /** What the offsets of its stream count. */
  readonly format: ReplyFormat;
  readonly reply: Reply;
  /** Resolves when the user message is stored; rejects with what kept it from being stored. */
  readonly started: Promise<void>;
  /**
   * Resolves after the reply has ended and was saved, whoever still listens; rejects with the AppError that broke it
   * (after what had been said was saved), or with what kept it from being saved.
   */
  readonly result: Promise<TurnResult>;
  /** This reader is through with it. */
  release(): void;
}

/** A reply to a question that was just asked, or asked again with the same idempotency key. */
export interface Turn extends ReplyStream {
  /** Whether an earlier request with the same idempotency key asked the question. */
  readonly replayed: boolean;
  /** Undefined where the response cache had no say: the reply was there before the request came. */
  readonly cache: CacheUse | undefined;
  /** Whether the reply came from the response cache. */
  readonly cached: boolean;
}
