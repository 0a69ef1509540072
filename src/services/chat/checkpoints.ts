import type { ReplyProgress, ReplyStore, TurnWriter } from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { isDatabaseError } from '../../domain/errors.ts';
import type { Metrics } from '../../domain/metrics.ts';
import type { Log } from '../../domain/runtime.ts';
import type { Reply } from './reply.ts';
import { missingReply } from './turn.ts';

/** The longest interval. A crash loses at most the text of this time and of one write. */
const MAX_INTERVAL_MS = 1000;
/** How often a reply without new text is checked for a deletion of its conversation. */
const IDLE_CHECK_MS = 1000;
/** The interval grows with the number of replies, so that at most 2,000 rows a second are written. */
const MS_PER_REPLY = 0.5;

interface Followed {
  readonly message: Message;
  readonly reply: Reply;
  /** The length of text and reasoning that was passed to the writer. */
  written: number;
  /** On the monotonic clock. */
  writtenAt: number;
}

interface CheckpointParts {
  readonly writer: Pick<TurnWriter, 'progress'>;
  readonly replies: Pick<ReplyStore, 'endedElsewhere' | 'wasRemovedAlone'>;
  readonly metrics: Pick<Metrics, 'checkpointSaved'>;
  readonly worker: string;
  readonly log: Log;
}

/**
 * Saves the text of all running replies at an interval, and ends those that were stopped or deleted through another
 * process. Has no timer while no reply is running.
 */
export class Checkpoints {
  readonly #writer: Pick<TurnWriter, 'progress'>;
  readonly #replies: CheckpointParts['replies'];
  readonly #metrics: Pick<Metrics, 'checkpointSaved'>;
  readonly #worker: string;
  readonly #log: Log;
  readonly #intervalMs: number;
  readonly #followed = new Map<string, Followed>();
  #timer: NodeJS.Timeout | undefined;

  constructor({ writer, replies, metrics, worker, log }: CheckpointParts, intervalMs: number) {
    this.#writer = writer;
    this.#replies = replies;
    this.#metrics = metrics;
    this.#worker = worker;
    this.#log = log;
    this.#intervalMs = intervalMs;
  }

  /** Saves a reply whose row is stored, until it ends. */
  follow(message: Message, reply: Reply): void {
    if (!reply.running) return;
    const { uid } = message;
    this.#followed.set(uid, { message, reply, written: 0, writtenAt: performance.now() });
    void reply.ended.then(() => this.#followed.delete(uid));
    this.#schedule(this.#intervalMs);
  }

  #schedule(ms: number): void {
    if (this.#timer || this.#followed.size === 0) return;
    this.#timer = setTimeout(() => void this.#run(), ms);
  }

  async #run(): Promise<void> {
    const start = performance.now();
    const due = [...this.#followed.values()].filter(
      ({ reply, written, writtenAt }) => lengthOf(reply) > written || start - writtenAt >= IDLE_CHECK_MS,
    );
    const interval = Math.max(this.#intervalMs, Math.min(MAX_INTERVAL_MS, due.length * MS_PER_REPLY));
    await Promise.all([...due.map((one) => this.#save(one)), this.#stopEndedElsewhere()]);
    this.#timer = undefined;
    this.#schedule(Math.max(0, interval - (performance.now() - start)));
  }

  async #save(followed: Followed): Promise<void> {
    const { message, reply, written } = followed;
    const progress: ReplyProgress = {
      uid: message.uid,
      supersedes: message.details?.supersedes,
      worker: this.#worker,
      after: (length) => {
        followed.written = lengthOf(reply);
        followed.writtenAt = performance.now();
        return reply.after(length);
      },
      reasoningAfter: (length) => reply.reasoningAfter(length),
    };
    try {
      const outcome = await this.#writer.progress(progress);
      if (outcome === 'saved') this.#metrics.checkpointSaved();
      if (outcome === 'stopped') reply.stop();
      if (outcome === 'gone') reply.fail(await missingReply(this.#replies, message));
    } catch (error) {
      // The next checkpoint, or the end of the reply, saves this text too.
      followed.written = written;
      this.#logError(error);
    }
  }

  /** Also finds stopped replies without new text, which `#save` does not write. */
  async #stopEndedElsewhere(): Promise<void> {
    try {
      for (const uid of await this.#replies.endedElsewhere(this.#worker)) {
        this.#followed.get(uid)?.reply.stop();
      }
    } catch (error) {
      this.#logError(error);
    }
  }

  /** Ignores errors of the database: the writer logs an outage, and the next checkpoint retries a locked row. */
  #logError(error: unknown): void {
    if (!isDatabaseError(error)) this.#log.error({ err: error }, 'checkpoint failed');
  }
}

function lengthOf({ length, reasoningLength }: Reply): number {
  return length + reasoningLength;
}
