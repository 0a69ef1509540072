import type { Instant, MessageStatus } from '../domain/conversation.ts';
import { AppError } from '../domain/errors.ts';
import type { Clock } from '../domain/ports.ts';
import type { PendingTurns, ReplyStore, StoredReply } from '../domain/turns.ts';
import type { StoredStreams } from './stored-streams.ts';
import type { ReplyStream } from './turn.ts';
import type { TurnKeeper } from './turn-keeper.ts';

export interface StopReport {
  readonly conversationId: string;
  /** Whether it was this call that ended the reply. */
  readonly stopped: boolean;
  readonly status: MessageStatus;
}

interface StreamParts {
  readonly keeper: TurnKeeper;
  readonly stored: StoredStreams;
  readonly replies: ReplyStore;
  readonly pending: PendingTurns;
  readonly clock: Clock;
}

/** Going on with a reply, and stopping one, wherever it is being made. */
export class StreamService {
  readonly #parts: StreamParts;
  readonly #ttlMs: number;

  /** @param ttlMs 0: conversations never expire */
  constructor(parts: StreamParts, ttlMs: number) {
    this.#parts = parts;
    this.#ttlMs = ttlMs;
  }

  /** @throws AppError `stream_not_found`, `database_unavailable` */
  async open(id: string): Promise<ReplyStream> {
    const { keeper, stored } = this.#parts;
    const running = keeper.find(id);
    if (running) return running;
    const waiting = this.#waiting(id);
    if (waiting) return stored.open(waiting, false);
    return stored.open(await this.#find(id));
  }

  /** What was said so far is kept. @throws AppError `stream_not_found`, `database_unavailable` */
  async stop(id: string): Promise<StopReport> {
    const running = this.#parts.keeper.find(id);
    if (running) return stopHere(running);
    const { message } = this.#waiting(id) ?? (await this.#find(id));
    const { conversationId, status } = message;
    if (status !== 'streaming') return { conversationId, stopped: false, status };
    if (await this.#parts.replies.cancel(id)) return { conversationId, stopped: true, status: 'cancelled' };
    const after = await this.#find(id);
    return { conversationId, stopped: false, status: after.message.status };
  }

  /** What has ended and waits in the journal. */
  #waiting(id: string): StoredReply | null {
    const message = this.#parts.pending.reply(id);
    if (!message || message.status === 'streaming') return null;
    const { conversationId, timestamp } = message;
    const conversation = { id: conversationId, owner: null, createdAt: timestamp, lastActive: timestamp };
    return { message, conversation, settling: false };
  }

  async #find(id: string): Promise<StoredReply> {
    const reply = await this.#parts.replies.find(id);
    if (!reply || reply.conversation.lastActive < this.#activeSince()) {
      throw new AppError('stream_not_found', 'There is no stream with this id, or it has expired');
    }
    return reply;
  }

  #activeSince(): Instant {
    return this.#ttlMs === 0 ? 0 : this.#parts.clock.now() - this.#ttlMs;
  }
}

async function stopHere({ conversationId, reply, result }: ReplyStream): Promise<StopReport> {
  const stopped = reply.running;
  reply.stop();
  try {
    const { finishReason } = await result;
    const cancelled = finishReason === 'cancelled';
    const whole = reply.end?.kind === 'whole' && !reply.end.outcome.truncated;
    return { conversationId, stopped, status: cancelled ? 'cancelled' : whole ? 'complete' : 'incomplete' };
  } catch (error) {
    if (stopped) throw error;
    return { conversationId, stopped, status: 'incomplete' };
  }
}
