import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  type ImportedConversation,
  type ImportOptions,
  type ImportOutcome,
  type ImportStore,
  MessageTakenError,
} from '../../domain/conversations/imports.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import type { Clock } from '../../domain/runtime.ts';

/** One line of a file; without conversation and error it is passed over. */
export interface ImportEntry {
  readonly line: number;
  readonly bytes: number;
  readonly conversation?: ImportedConversation;
  /** The same with other ids of messages, for when one of them is taken. */
  readonly renamed?: () => ImportedConversation;
  readonly error?: string;
}

export interface ImportCounts {
  readonly imported: number;
  readonly replaced: number;
  readonly skipped: number;
  readonly failed: number;
  readonly expired: number;
  readonly messages: number;
  readonly errors: readonly { readonly line: number; readonly message: string }[];
}

export interface ImportRequest extends ImportOptions {
  /** Whether all conversations are pinned. */
  readonly pin: boolean;
}

/** Errors that are reported; the others are counted. */
const MAX_ERRORS = 100;
/** Of the lines that are written together. */
const BATCH_ENTRIES = 32;
const BATCH_BYTES = 64 * 1024;
/** How long entries are processed before others are served. */
const TURN_MS = 10;

/** Imports conversations, several at the same time. */
export class ImportService {
  readonly #store: ImportStore;
  readonly #clock: Clock;
  readonly #retention: Retention;
  readonly #parallel: number;

  /** @param parallel batches of conversations that are written at the same time */
  constructor(store: ImportStore, clock: Clock, retention: Retention, parallel: number) {
    this.#store = store;
    this.#clock = clock;
    this.#retention = retention;
    this.#parallel = parallel;
  }

  /**
   * A conversation that fails does not stop the others.
   * @param onProgress called after each batch
   * @throws AppError `database_unavailable`, `database_busy`; and the errors of `entries`
   */
  async run(
    entries: AsyncIterable<ImportEntry>,
    request: ImportRequest,
    onProgress?: (counts: ImportCounts) => void,
  ): Promise<ImportCounts> {
    const tally = new Tally();
    const running = new Map<Batch, Promise<void>>();
    let failure: { error: unknown } | undefined;
    const write = async (batch: Batch): Promise<void> => {
      try {
        await this.#write(tally, batch, request);
        onProgress?.(tally);
      } catch (error) {
        failure ??= { error };
      } finally {
        running.delete(batch);
      }
    };
    const start = async (batch: Batch): Promise<void> => {
      const isBlocked = () =>
        running.size >= this.#parallel || running.keys().some((one) => one.overlaps(batch));
      while (isBlocked()) await Promise.race(running.values());
      if (failure) throw failure.error;
      if (batch.size > 0) running.set(batch, write(batch));
    };
    try {
      let batch = new Batch();
      let turn = performance.now();
      for await (const entry of entries) {
        const { line, conversation, error } = entry;
        if (error !== undefined) tally.fail(line, error);
        if (!conversation) continue;
        if (!batch.accepts(entry, conversation)) {
          await start(batch);
          batch = new Batch();
        }
        batch.add(entry, conversation);
        // The next line begins after the end of a long one.
        if (conversation.isLong) {
          await start(batch);
          await running.get(batch);
          batch = new Batch();
        }
        if (performance.now() - turn > TURN_MS) {
          await nextTurn();
          turn = performance.now();
        }
      }
      await start(batch);
    } finally {
      await Promise.all(running.values());
    }
    if (failure) throw failure.error;
    return tally.counts();
  }

  async #write(tally: Tally, batch: Batch, { pin, ...options }: ImportRequest): Promise<void> {
    const pinned = (one: ImportedConversation) => (pin ? { ...one, pinned: true } : one);
    const { entries } = batch;
    const results = await this.#store.write(
      entries.map(({ conversation }) => pinned(conversation)),
      options,
    );
    for (const [at, { line, conversation, renamed }] of entries.entries()) {
      let result = results[at];
      if (result && 'error' in result && result.error instanceof MessageTakenError && renamed) {
        [result] = await this.#store.write([pinned(renamed())], options);
      }
      if (!result) continue;
      if ('error' in result) tally.fail(line, result.error.message);
      else tally.add(result.outcome, result.messages, this.#isExpired(pinned(conversation)));
    }
  }

  #isExpired(conversation: ImportedConversation): boolean {
    return this.#retention.isExpired(conversation, this.#clock.now());
  }
}

interface BatchEntry extends ImportEntry {
  readonly conversation: ImportedConversation;
}

/** Conversations with different ids, which are written together. */
class Batch {
  readonly #entries = new Map<string, BatchEntry>();
  #bytes = 0;

  get size(): number {
    return this.#entries.size;
  }

  get entries(): BatchEntry[] {
    return [...this.#entries.values()];
  }

  /** A long one is alone. The later one of two with the same id must find the earlier one. */
  accepts({ bytes }: ImportEntry, { id, isLong }: ImportedConversation): boolean {
    if (this.size === 0) return true;
    return (
      !isLong && this.size < BATCH_ENTRIES && this.#bytes + bytes <= BATCH_BYTES && !this.#entries.has(id)
    );
  }

  overlaps(other: Batch): boolean {
    return this.#entries.keys().some((id) => other.#entries.has(id));
  }

  add(entry: ImportEntry, conversation: ImportedConversation): void {
    this.#entries.set(conversation.id, { ...entry, conversation });
    this.#bytes += entry.bytes;
  }
}

class Tally implements ImportCounts {
  imported = 0;
  replaced = 0;
  skipped = 0;
  failed = 0;
  expired = 0;
  messages = 0;
  readonly errors: { line: number; message: string }[] = [];

  fail(line: number, message: string): void {
    this.failed += 1;
    if (this.errors.length < MAX_ERRORS) this.errors.push({ line, message });
  }

  add(outcome: ImportOutcome, messages: number, isExpired: boolean): void {
    this[outcome] += 1;
    if (outcome === 'skipped') return;
    this.messages += messages;
    if (isExpired) this.expired += 1;
  }

  counts(): ImportCounts {
    this.errors.sort((a, b) => a.line - b.line);
    const { imported, replaced, skipped, failed, expired, messages, errors } = this;
    return { imported, replaced, skipped, failed, expired, messages, errors };
  }
}
