import { isBusy } from '../core/file-lock.ts';

/** How long a write waits for the lock of the file, and about how often it tries. */
const WAIT_MS = 5000;
const POLL_MS = 15;

interface Write {
  /** Settles the promise of the write. @throws when the write failed */
  readonly attempt: () => void;
  readonly reject: (reason: unknown) => void;
  /** On the monotonic clock. */
  readonly deadline: number;
}

/**
 * Runs writes to a SQLite file in order. Each is synchronous, and is repeated while another program holds the lock of
 * the file. SQLite's own busy timeout is not used, because it would block the event loop.
 */
export class WriteQueue {
  readonly #waiting: Write[] = [];

  /** Runs `work` before it returns, unless earlier writes wait or the file is locked. @throws the error of `work` */
  run<T>(work: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const deadline = performance.now() + WAIT_MS;
      this.#waiting.push({ attempt: () => resolve(work()), reject, deadline });
      if (this.#waiting.length === 1) this.#next();
    });
  }

  #next(): void {
    for (let write = this.#waiting[0]; write; write = this.#waiting[0]) {
      try {
        write.attempt();
      } catch (error) {
        if (isBusy(error) && performance.now() < write.deadline) {
          setTimeout(() => this.#next(), POLL_MS * (0.5 + Math.random()));
          return;
        }
        write.reject(error);
      }
      this.#waiting.shift();
    }
  }
}
