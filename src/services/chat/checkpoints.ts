import { AppError, isUnavailable } from '../../domain/errors.ts';
import type { Log } from '../../domain/runtime.ts';
import type { ReplyProgress, ReplyStore, TurnWriter } from '../../domain/turns.ts';
import type { Reply } from './reply.ts';

/** The longest pace, so that a crash never loses more than a second and what a write takes. */
const SLOWEST_MS = 1000;
/** One that says nothing is looked after this often: its conversation may be deleted meanwhile. */
const LOOK_MS = 1000;
/** What each growing reply adds to the pace: at most two thousand rows are written on in a second. */
const MS_PER_REPLY = 0.5;

interface Growing {
  readonly uid: string;
  readonly reply: Reply;
  /** How much of it was handed to the writer. */
  written: number;
  /** When that was, on the monotonic clock. */
  writtenAt: number;
}

interface CheckpointParts {
  readonly writer: Pick<TurnWriter, 'progress'>;
  readonly replies: Pick<ReplyStore, 'endedElsewhere'>;
  readonly worker: string;
  readonly log: Log;
}

/**
 * Stores what running replies have said so far, all of them together in one beat, and learns on the way which of
 * them were stopped or deleted through another process. Rests while no reply is running.
 */
export class Checkpoints {
  readonly #parts: CheckpointParts;
  readonly #intervalMs: number;
  readonly #growing = new Map<string, Growing>();
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: CheckpointParts, intervalMs: number) {
    this.#parts = parts;
    this.#intervalMs = intervalMs;
  }

  /** Follows a reply whose row was begun, until it ends. */
  follow(uid: string, reply: Reply): void {
    if (!reply.running) return;
    this.#growing.set(uid, { uid, reply, written: 0, writtenAt: performance.now() });
    void reply.ended.then(() => this.#growing.delete(uid));
    this.#schedule(this.#intervalMs);
  }

  #schedule(ms: number): void {
    if (this.#timer || this.#growing.size === 0) return;
    this.#timer = setTimeout(() => void this.#beat(), ms);
  }

  async #beat(): Promise<void> {
    const start = performance.now();
    const due = [...this.#growing.values()].filter(
      ({ reply, written, writtenAt }) => reply.length > written || start - writtenAt >= LOOK_MS,
    );
    const pace = Math.max(this.#intervalMs, Math.min(SLOWEST_MS, due.length * MS_PER_REPLY));
    await Promise.all([...due.map((one) => this.#store(one)), this.#lookForStops()]);
    this.#timer = undefined;
    this.#schedule(Math.max(0, pace - (performance.now() - start)));
  }

  async #store(growing: Growing): Promise<void> {
    const { uid, reply, written } = growing;
    const { writer, worker } = this.#parts;
    const progress: ReplyProgress = {
      uid,
      worker,
      after: (length) => {
        growing.written = reply.length;
        growing.writtenAt = performance.now();
        return reply.after(length);
      },
    };
    try {
      const outcome = await writer.progress(progress);
      if (outcome === 'stopped') reply.stop();
      if (outcome === 'gone')
        reply.fail(new AppError('conversation_not_found', 'The conversation was deleted'));
    } catch (error) {
      // The next beat, or the end of the reply, stores this too.
      growing.written = written;
      this.#tell(error);
    }
  }

  /** Those that say nothing at the moment would not learn of it otherwise. */
  async #lookForStops(): Promise<void> {
    try {
      for (const uid of await this.#parts.replies.endedElsewhere(this.#parts.worker)) {
        this.#growing.get(uid)?.reply.stop();
      }
    } catch (error) {
      this.#tell(error);
    }
  }

  /** A database that is away is told by whoever finds it away first. */
  #tell(error: unknown): void {
    if (isUnavailable(error)) return;
    this.#parts.log.error({ err: error }, 'a running reply could not be stored on');
  }
}
