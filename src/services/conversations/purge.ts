import type { ConversationCursor, Counts, Instant } from '../../domain/conversations/conversation.ts';
import type { PurgeStore } from '../../domain/conversations/purge.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import { pause } from '../../util/timers.ts';
import type { PurgeArchiver } from '../exports/purge-archiver.ts';

/** Conversations per transaction: it locks them, and chats in them wait. */
const BATCH = 200;
/** The archive reads them once before and once in the transaction. */
const ARCHIVE_BATCH = 20;
/** Interval at which the lock of another process is tried again. */
const LOCK_POLL_MS = 200;
/** How long deletions stay recorded: longer than the journal keeps turns, and a day longer than export cursors are valid. */
const DELETIONS_KEPT_MS = 31 * 24 * 3_600_000;
const DELETIONS_BATCH = 1000;

const NOTHING: Readonly<Counts> = { conversations: 0, messages: 0 };

export interface PurgeReport extends Counts {
  /** After an interruption: the expired conversations that are left. */
  readonly left?: number;
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
  async preview(): Promise<Counts> {
    return this.#retention.isForever ? NOTHING : this.#store.countExpired(this.#cutoff());
  }

  /**
   * Purges in batches until nothing is left or the signal is aborted, which takes effect after the current slice.
   * Rejects when the archive cannot be written; conversations that are not archived are not deleted.
   * @param onProgress called after each slice with the rows removed so far
   */
  async run(signal: AbortSignal, onProgress: (total: Counts) => void = () => {}): Promise<PurgeReport> {
    const startedAt = performance.now();
    const cutoff = this.#cutoff();
    const total = { ...NOTHING };
    const count = addTo(total, onProgress);
    const purged = await this.#store.exclusively('purge', async () => {
      await this.#whenUnlocked(signal, () => this.#purge(cutoff, signal, count));
      await this.#forgetDeletions(signal);
      return true;
    });
    if (this.#retention.isForever) return { ...total, outcome: 'off' };
    if (!purged) return { ...NOTHING, outcome: 'busy' };
    const report: PurgeReport = signal.aborted
      ? { ...total, left: await this.#store.countLeft(cutoff), outcome: 'stopped' }
      : { ...total, outcome: 'done' };
    this.#log.info({ ...report, ms: Math.round(performance.now() - startedAt) }, 'purge finished');
    return report;
  }

  /** Removes the rows of deleted conversations, unless another process does. */
  async removeDeleted(signal: AbortSignal): Promise<void> {
    if ((await this.#store.pendingDeletions(0, 1)).length === 0) return;
    await this.#store.exclusively('removal', () => this.#removeDeleted(signal, () => {}));
  }

  /** Waits while another process removes the rows of deleted conversations. */
  async #whenUnlocked(signal: AbortSignal, work: () => Promise<void>): Promise<void> {
    const locked = () => this.#store.exclusively('removal', () => work().then(() => true));
    while (!signal.aborted && !(await locked())) await pause(LOCK_POLL_MS, signal);
  }

  async #purge(cutoff: Instant, signal: AbortSignal, count: (removed: Counts) => void): Promise<void> {
    await this.#store.abandonUnfinished(this.#clock.now());
    await this.#removeDeleted(signal, count);
    if (this.#retention.isForever) return;
    const size = this.#archiver ? ARCHIVE_BATCH : BATCH;
    let after: ConversationCursor | null = null;
    while (!signal.aborted) {
      const page: ConversationCursor[] = await this.#store.candidates(cutoff, after, size);
      after = page.at(-1) ?? null;
      if (!after) return;
      await this.#hide(
        page.map(({ id }) => id),
        cutoff,
      );
      await this.#removeDeleted(signal, count);
    }
  }

  async #removeDeleted(signal: AbortSignal, onSlice: (removed: Counts) => void): Promise<void> {
    const isStopped = () => signal.aborted;
    let after = 0;
    while (!signal.aborted) {
      const deletions = await this.#store.pendingDeletions(after, BATCH);
      after = deletions.at(-1)?.seq ?? 0;
      if (after === 0) return;
      await this.#store.remove(deletions, { isStopped, onSlice });
    }
  }

  /** A conversation that changes after its version was read stays until the next run, which archives it again. */
  async #hide(ids: readonly string[], cutoff: Instant): Promise<void> {
    const versions = this.#archiver ? await this.#store.versions(ids) : undefined;
    await this.#archiver?.append(ids);
    await this.#store.hide(ids, cutoff, versions);
  }

  async #forgetDeletions(signal: AbortSignal): Promise<void> {
    const before = this.#clock.now() - DELETIONS_KEPT_MS;
    while (!signal.aborted && (await this.#store.forgetDeletions(before, DELETIONS_BATCH)) > 0);
  }

  #cutoff(): Instant {
    return this.#retention.activeSince(this.#clock.now());
  }
}

function addTo(total: Counts, onProgress: (total: Counts) => void): (removed: Counts) => void {
  return ({ conversations, messages }) => {
    total.conversations += conversations;
    total.messages += messages;
    onProgress(total);
  };
}
