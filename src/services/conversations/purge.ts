import type { Instant } from '../../domain/conversations/conversation.ts';
import type { PurgeCount, PurgeStore } from '../../domain/conversations/purge.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import type { PurgeArchiver } from '../exports/purge-archiver.ts';

/** Conversations per transaction: a delete locks them, and chats in them wait. */
const BATCH = 200;
/** How long deletions stay recorded: longer than the journal keeps turns, and a day longer than export cursors are valid. */
const DELETIONS_KEPT_MS = 31 * 24 * 3_600_000;
const DELETIONS_BATCH = 1000;

const NOTHING: PurgeCount = { conversations: 0, messages: 0 };

export interface PurgeReport extends PurgeCount {
  /** `busy`: another process is purging; `off`: conversations never expire. */
  readonly outcome: 'done' | 'stopped' | 'busy' | 'off';
}

/** Deletes expired conversations. */
export class PurgeService {
  readonly #store: PurgeStore;
  readonly #clock: Clock;
  readonly #retention: Retention;
  readonly #log: Log;
  readonly #archiver: Pick<PurgeArchiver, 'append'> | null;

  /** @param archiver writes conversations to the archive before they are deleted; null: no archive */
  constructor(
    store: PurgeStore,
    clock: Clock,
    retention: Retention,
    log: Log,
    archiver: Pick<PurgeArchiver, 'append'> | null,
  ) {
    this.#store = store;
    this.#clock = clock;
    this.#retention = retention;
    this.#log = log;
    this.#archiver = archiver;
  }

  /** What a run would delete now. */
  async preview(): Promise<PurgeCount> {
    return this.#retention.isForever ? NOTHING : this.#store.countExpired(this.#cutoff());
  }

  /**
   * Purges in batches until nothing is left or the signal is aborted, which takes effect between two batches.
   * Rejects when the archive cannot be written; conversations that are not archived are not deleted.
   */
  async run(signal: AbortSignal): Promise<PurgeReport> {
    if (this.#retention.isForever) return { ...NOTHING, outcome: 'off' };
    const startedAt = performance.now();
    const purged = await this.#store.exclusively(async () => {
      const total = await this.#purge(this.#cutoff(), signal);
      await this.#forgetDeletions(signal);
      return total;
    });
    if (!purged) return { ...NOTHING, outcome: 'busy' };
    const report: PurgeReport = { ...purged, outcome: signal.aborted ? 'stopped' : 'done' };
    this.#log.info({ ...report, ms: Math.round(performance.now() - startedAt) }, 'purge finished');
    return report;
  }

  async #purge(cutoff: Instant, signal: AbortSignal): Promise<PurgeCount> {
    let { conversations, messages } = NOTHING;
    while (!signal.aborted) {
      const ids = await this.#store.candidates(cutoff, BATCH);
      if (ids.length === 0) break;
      const removed = await this.#delete(ids, cutoff);
      conversations += removed.conversations;
      messages += removed.messages;
    }
    return { conversations, messages };
  }

  /** A conversation that changes after its version was read stays, and is archived again with its next candidates. */
  async #delete(ids: readonly string[], cutoff: Instant): Promise<PurgeCount> {
    if (!this.#archiver) return this.#store.delete(ids, cutoff);
    const versions = await this.#store.versions(ids);
    await this.#archiver.append(ids);
    return this.#store.delete(ids, cutoff, versions);
  }

  async #forgetDeletions(signal: AbortSignal): Promise<void> {
    const before = this.#clock.now() - DELETIONS_KEPT_MS;
    while (!signal.aborted && (await this.#store.forgetDeletions(before, DELETIONS_BATCH)) > 0);
  }

  #cutoff(): Instant {
    return this.#retention.activeSince(this.#clock.now());
  }
}
