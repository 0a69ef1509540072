import { type Access, canAccess } from '../../domain/access.ts';
import type { MessageStatus } from '../../domain/conversation.ts';
import { streamNotFound } from '../../domain/errors.ts';
import type { Retention } from '../../domain/retention.ts';
import type { Clock } from '../../domain/runtime.ts';
import type { PendingTurns, ReplyStore, StoredReply } from '../../domain/turns.ts';
import type { StoredStreams } from './stored-streams.ts';
import type { ReplyStream } from './turn.ts';
import type { TurnRecorder } from './turn-recorder.ts';

export interface StopReport {
  readonly conversationId: string;
  /** Whether it was this call that ended the reply. */
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

/** How long a request waits for what its stream still has in the journal. */
const JOURNAL_WAIT_MS = 5000;

/** Going on with a reply, and stopping one, wherever it is being made. */
export class StreamService {
  readonly #parts: StreamParts;
  readonly #retention: Retention;

  constructor(parts: StreamParts, retention: Retention) {
    this.#parts = parts;
    this.#retention = retention;
  }

  /** @throws AppError `stream_not_found`, `database_unavailable` */
  async open(id: string, access: Access): Promise<ReplyStream> {
    const { recorder, stored } = this.#parts;
    const running = await this.#running(id, access);
    if (running) return running;
    const waiting = this.#waiting(id, access);
    if (waiting) return stored.open(waiting, false);
    const reply = await this.#find(id, access);
    return recorder.find(id) ?? stored.open(reply);
  }

  /** What was said so far is kept. @throws AppError `stream_not_found`, `database_unavailable` */
  async stop(id: string, access: Access): Promise<StopReport> {
    const running = await this.#running(id, access);
    if (running) return stopHere(running);
    const { message } = this.#waiting(id, access) ?? (await this.#find(id, access));
    const { conversationId, status } = message;
    if (status !== 'streaming') return { conversationId, stopped: false, status };
    if (await this.#parts.replies.cancel(id)) return { conversationId, stopped: true, status: 'cancelled' };
    const after = await this.#find(id, access);
    return { conversationId, stopped: false, status: after.message.status };
  }

  /**
   * What is being made here. Somebody to whom all is open may have asked in another one's conversation: whose that is
   * the database knows.
   */
  async #running(id: string, access: Access): Promise<ReplyStream | undefined> {
    const running = this.#parts.recorder.find(id);
    if (!running || canAccess(access, running.owner)) return running;
    await this.#find(id, access);
    return running;
  }

  /**
   * What has ended and waits in the journal, of a conversation that began there. Whose any other one is only the
   * database knows: who wrote to it meanwhile may not have been let.
   */
  #waiting(id: string, access: Access): StoredReply | null {
    const { pending } = this.#parts;
    const message = pending.reply(id);
    if (!message || message.status === 'streaming') return null;
    const { conversationId, timestamp } = message;
    const owner = pending.messages(conversationId) ? (pending.ownerOf(conversationId) ?? null) : null;
    if (!canAccess(access, owner)) return null;
    const conversation = { id: conversationId, owner, createdAt: timestamp, lastActive: timestamp };
    return { message, conversation, settling: false };
  }

  async #find(id: string, access: Access): Promise<StoredReply> {
    const reply = await this.#stored(id);
    if (!reply || !canAccess(access, reply.conversation.owner)) throw streamNotFound();
    const activeSince = this.#retention.activeSince(this.#parts.clock.now());
    if (reply.conversation.lastActive < activeSince) throw streamNotFound();
    return reply;
  }

  /** What waits in the journal must be in the database before anybody may say that it is not there. */
  async #stored(id: string): Promise<StoredReply | null> {
    const { replies, pending } = this.#parts;
    const reply = await replies.find(id);
    if (reply || !pending.reply(id)) return reply;
    await pending.flush(JOURNAL_WAIT_MS);
    return replies.find(id);
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
