import { pause } from '../../util/timers.ts';

/** How long after a chat request exports are slowed down. */
const CHAT_MS = 50;
/**
 * Length of a pause in multiples of the work before it. On two cores, the p99 of chats beside an export was 4 times the
 * p99 without an export at factor 0, 1.9 times at 3, and about 1.5 times at 8 (`npm run bench:export`).
 */
const PAUSE_FACTOR = 12;
/** Longer pieces of work were mostly waiting, for the database or for a slow reader, and count as this long. */
const WORK_MS = 5;

export interface ThrottleClock {
  /** Milliseconds, monotonic. */
  now(): number;
  pause(ms: number): Promise<unknown>;
}

/**
 * Slows exports down while there are chats: both share the event loop, and an export at full speed delays each step of
 * a chat. Without chats exports run at full speed.
 */
export class ExportThrottle {
  readonly #time: ThrottleClock;
  #chatAt = Number.NEGATIVE_INFINITY;
  #working = 0;

  constructor(time: ThrottleClock = { now: () => performance.now(), pause }) {
    this.#time = time;
  }

  /** Called at each chat request. */
  noteChat(): void {
    this.#chatAt = this.#time.now();
  }

  /**
   * The pieces, with a pause after each one while there are chats. Concurrent exports share the throttle; one that waits
   * for its reader does no work and does not count.
   */
  async *throttle<T>(pieces: AsyncIterable<T>): AsyncGenerator<T> {
    this.#working += 1;
    let isWorking = true;
    try {
      let began = this.#time.now();
      for await (const piece of pieces) {
        this.#working -= 1;
        isWorking = false;
        yield piece;
        this.#working += 1;
        isWorking = true;
        const now = this.#time.now();
        if (now - this.#chatAt < CHAT_MS) {
          const worked = Math.min(now - began, WORK_MS);
          await this.#time.pause(Math.ceil(worked * PAUSE_FACTOR * this.#working));
        }
        began = this.#time.now();
      }
    } finally {
      if (isWorking) this.#working -= 1;
    }
  }
}
