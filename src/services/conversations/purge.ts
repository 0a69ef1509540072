import type { PurgeCount, PurgeStore } from '../../domain/purge.ts';
import type { Retention } from '../../domain/retention.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import type { PurgeArchiver } from '../exports/purge-archiver.ts';

/** How many conversations one delete takes: small, so that chats wait for no long lock. */
const BATCH = 200;
/** How long it is known that a conversation was deleted: longer than anything waits in a journal, and a day longer than a cursor is good. */
const DELETIONS_KEPT_MS = 31 * 24 * 3_600_000;
const DELETIONS_BATCH = 1000;

export interface PurgeReport extends PurgeCount {
  /** `busy`: another process was purging; `off`: conversations are kept for ever. */
  readonly outcome: 'done' | 'stopped' | 'busy' | 'off';
}

/** Deletes conversations that nobody has used for the time to live. */
export class PurgeService {
  readonly #store: PurgeStore;
  readonly #clock: Clock;
  readonly #retention: Retention;
  readonly #log: Log;
  readonly #archive: PurgeArchiver | undefined;

  /** @param archive where conversations are written before they are deleted */
  constructor(store: PurgeStore, clock: Clock, retention: Retention, log: Log, archive?: PurgeArchiver) {
    this.#store = store;
    this.#clock = clock;
    this.#retention = retention;
    this.#log = log;
    this.#archive = archive;
  }

  /** What a run would delete now. */
  async preview(): Promise<PurgeCount> {
    if (this.#retention.isForever) return { conversations: 0, messages: 0 };
    return this.#store.countExpired(this.#retention.activeSince(this.#clock.now()));
  }

  /**
   * Purges in small batches until nothing is left or `signal` says to stop (between two batches).
   * Rejects when the archive cannot be written, and what is not in it is not purged.
   */
  async run(signal: AbortSignal): Promise<PurgeReport> {
    const none = { conversations: 0, messages: 0 };
    if (this.#retention.isForever) return { ...none, outcome: 'off' };
    const began = performance.now();
    let total: PurgeCount = none;
    const mine = await this.#store.exclusively(async () => {
      total = await this.#batches(signal);
    });
    if (!mine) return { ...none, outcome: 'busy' };
    const report: PurgeReport = { ...total, outcome: signal.aborted ? 'stopped' : 'done' };
    this.#log.info({ ...report, ms: Math.round(performance.now() - began) }, 'purged idle conversations');
    return report;
  }

  async #batches(signal: AbortSignal): Promise<PurgeCount> {
    const cutoff = this.#retention.activeSince(this.#clock.now());
    const archive = this.#archive;
    const keep = archive && ((ids: readonly string[]) => archive.keep(ids));
    let conversations = 0;
    let messages = 0;
    while (!signal.aborted) {
      const removed = await this.#store.deleteExpired(cutoff, BATCH, keep);
      conversations += removed.conversations;
      messages += removed.messages;
      if (removed.conversations === 0) break;
    }
    const forgotten = this.#clock.now() - DELETIONS_KEPT_MS;
    while (!signal.aborted && (await this.#store.forgetDeletions(forgotten, DELETIONS_BATCH)) > 0);
    return { conversations, messages };
  }
}
