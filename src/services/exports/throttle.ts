import { pause } from '../../util/timers.ts';

/** So long after a chat began work in the background lets others go first. */
const CHAT_MS = 50;
/**
 * How many times as long as it worked it then rests. On two cores, the p99 of chats beside an export was 4 times the
 * quiet one without a rest, 1.9 times with 3, and about 1.5 times with 8 (`npm run bench:export`).
 */
const PAUSE_FACTOR = 12;
/** Of a piece of work, what counts: most of a longer one was waiting, for the database or for a slow reader. */
const WORK_MS = 5;

export interface ThrottleClock {
  /** Milliseconds, monotonic. */
  now(): number;
  pause(ms: number): Promise<unknown>;
}

/**
 * Lets chats go before exports. One process has one event loop, and a host few cores: an export at full speed would
 * make every chat wait at each of its steps, for the loop and for the database. While nobody chats nothing is slower.
 */
export class ExportThrottle {
  readonly #time: ThrottleClock;
  #chatAt = Number.NEGATIVE_INFINITY;
  #working = 0;

  constructor(time: ThrottleClock = { now: () => performance.now(), pause }) {
    this.#time = time;
  }

  /** Somebody waits for a reply. */
  noteChat(): void {
    this.#chatAt = this.#time.now();
  }

  /** The pieces, with a rest after each one where there are chats. Those who work at the same time share the pace. */
  async *throttle<T>(pieces: AsyncIterable<T>): AsyncGenerator<T> {
    this.#working += 1;
    try {
      let began = this.#time.now();
      for await (const piece of pieces) {
        yield piece;
        const now = this.#time.now();
        if (now - this.#chatAt < CHAT_MS) {
          const worked = Math.min(now - began, WORK_MS);
          await this.#time.pause(Math.ceil(worked * PAUSE_FACTOR * this.#working));
        }
        began = this.#time.now();
      }
    } finally {
      this.#working -= 1;
    }
  }
}
