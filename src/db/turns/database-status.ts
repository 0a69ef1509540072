import type { Logger } from 'pino';

/** Whether the database is believed to be down. Logs the beginning and the end of an outage, each once. */
export class DatabaseStatus {
  readonly #logger: Logger;
  #isDown = false;
  /** Start of the outage on the monotonic clock; undefined again after the first successful write. */
  #downSince: number | undefined;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  get isDown(): boolean {
    return this.#isDown;
  }

  /** A write failed because the database is unavailable. */
  markDown(error: unknown): void {
    this.#isDown = true;
    if (this.#downSince !== undefined) return;
    this.#downSince = performance.now();
    this.#logger.warn({ err: error }, 'database unavailable, journaling');
  }

  /** A probe succeeded, so writes are tried again. The outage ends with the first successful write. */
  markProbed(): void {
    this.#isDown = false;
  }

  /** A write succeeded. */
  markUp(): void {
    this.#isDown = false;
    if (this.#downSince === undefined) return;
    const ms = Math.round(performance.now() - this.#downSince);
    this.#downSince = undefined;
    this.#logger.info({ ms }, 'database available again');
  }
}
