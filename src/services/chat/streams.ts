import { type Access, canAccess } from '../../domain/access/access.ts';
import {
  type PendingTurns,
  type ReplyStore,
  type StoredReply,
  waitForReplay,
} from '../../domain/chat/turns.ts';
import type { MessageStatus } from '../../domain/conversations/conversation.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import { streamNotFound } from '../../domain/errors.ts';
import type { Clock } from '../../domain/runtime.ts';
import { storedEnd } from './reply.ts';
import type { StoredStreams } from './stored-streams.ts';
import type { Turn } from './turn.ts';
import type { TurnRecorder } from './turn-recorder.ts';

export interface StopReport {
  readonly conversationId: string;
  /** Whether this call ended the reply. */
  readonly stopped: boolean;
  readonly status: MessageStatus;
}

interface StreamParts {
  readonly recorder: TurnRecorder;
  readonly stored: StoredStreams;
  readonly replies: ReplyStore;
  readonly pending: PendingTurns;
  readonly clock: Clock;
}

/** Resumes and stops replies of this and of other processes. */
export class StreamService {
  readonly #recorder: TurnRecorder;
  readonly #stored: StoredStreams;
  readonly #replies: ReplyStore;
  readonly #pending: PendingTurns;
  readonly #clock: Clock;
  readonly #retention: Retention;

  constructor({ recorder, stored, replies, pending, clock }: StreamParts, retention: Retention) {
    this.#recorder = recorder;
    this.#stored = stored;
    this.#replies = replies;
    this.#pending = pending;
    this.#clock = clock;
    this.#retention = retention;
  }

  /** @throws AppError `stream_not_found`, `database_unavailable` */
  async open(id: string, access: Access): Promise<Turn> {
    const running = await this.#running(id, access);
    if (running) return running;
    const journalled = this.#journalled(id, access);
    if (journalled) return this.#stored.open(journalled, false);
    const reply = await this.#find(id, access);
    // A turn with a key is stored before this process tracks it, so look again.
    return this.#recorder.find(id) ?? this.#stored.open(reply);
  }

  /** The text so far is kept. @throws AppError `stream_not_found`, `database_unavailable` */
  async stop(id: string, access: Access): Promise<StopReport> {
    const running = await this.#running(id, access);
    if (running) return stopHere(running);
    const { message } = this.#journalled(id, access) ?? (await this.#find(id, access));
    const { conversationId, status } = message;
    if (status !== 'streaming') return { conversationId, stopped: false, status };
    if (await this.#replies.cancel(id)) return { conversationId, stopped: true, status: 'cancelled' };
    const after = await this.#find(id, access);
    return { conversationId, stopped: false, status: after.message.status };
  }

  /** Stops the reply of a caller that has disconnected, unless its stream has readers in any process. Never rejects. */
  async abandon({ reply, messageId, isStored }: Turn): Promise<void> {
    if (!reply.running || reply.readers > 0) return;
    const isFollowed = isStored && (await this.#isFollowed(messageId));
    if (!isFollowed && reply.readers === 0) reply.stop();
  }

  async #isFollowed(id: string): Promise<boolean> {
    const stored = await this.#replies.find(id).catch(() => null);
    return stored?.message.details?.followed ?? false;
  }

  async #running(id: string, access: Access): Promise<Turn | undefined> {
    const running = this.#recorder.find(id);
    // The turn of an unrestricted caller may be in another owner's conversation; the database knows the owner.
    if (running && !canAccess(access, running.owner)) await this.#find(id, access);
    return running;
  }

  /**
   * An ended reply in the journal. The journal knows the owner only of a conversation that began in it; for others the
   * owner counts as null.
   */
  #journalled(id: string, access: Access): StoredReply | null {
    const message = this.#pending.reply(id);
    if (!message || message.status === 'streaming') return null;
    const { conversationId, timestamp } = message;
    const owner = this.#pending.conversation(conversationId)?.owner ?? null;
    if (!canAccess(access, owner)) return null;
    const conversation = {
      id: conversationId,
      owner,
      createdAt: timestamp,
      lastActive: timestamp,
      pinned: false,
    };
    return { message, conversation, settling: false, superseded: false };
  }

  async #find(id: string, access: Access): Promise<StoredReply> {
    const reply = (await this.#replies.find(id)) ?? (await this.#findAfterReplay(id));
    if (!reply || !canAccess(access, reply.conversation.owner)) throw streamNotFound();
    if (this.#retention.isExpired(reply.conversation, this.#clock.now())) throw streamNotFound();
    return reply;
  }

  async #findAfterReplay(id: string): Promise<StoredReply | null> {
    const journalled = this.#pending.reply(id);
    if (!journalled) return null;
    await waitForReplay(this.#pending, journalled.conversationId);
    return this.#replies.find(id);
  }
}

async function stopHere({ conversationId, reply, result }: Turn): Promise<StopReport> {
  const stopped = reply.running;
  reply.stop();
  try {
    const { finishReason } = await result;
    // Another process may have cancelled the row of a reply that ended here.
    const cancelled = finishReason === 'cancelled';
    const status = cancelled || !reply.end ? 'cancelled' : storedEnd(reply.end).status;
    return { conversationId, stopped, status };
  } catch (error) {
    if (stopped) throw error;
    return { conversationId, stopped, status: 'incomplete' };
  }
}
