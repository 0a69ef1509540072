import type { Logger } from 'pino';

/** What this process believes of the database, and the log lines about it: one when it goes, one when it is back. */
export class DatabaseStatus {
  readonly #logger: Logger;
  #away = false;
  /** When it was first missed; until it has taken something again. */
  #since: number | undefined;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  get isDown(): boolean {
    return this.#away;
  }

  /** A write failed for the database's sake. */
  markDown(error: unknown): void {
    this.#away = true;
    if (this.#since !== undefined) return;
    this.#since = performance.now();
    this.#logger.warn({ err: error }, 'the database is away: what is said goes to the journal');
  }

  /** It answers; whether it takes anything the next write will show, and nothing is said of it before. */
  markProbed(): void {
    this.#away = false;
  }

  /** It took something. */
  markUp(): void {
    this.#away = false;
    if (this.#since === undefined) return;
    const ms = Math.round(performance.now() - this.#since);
    this.#since = undefined;
    this.#logger.info({ ms }, 'the database is back');
  }
}
