import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  ImportError,
  type ImportedConversation,
  type ImportOptions,
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
/** Bytes of lines that are being written at the same time. */
const MAX_BYTES = 2 * 1024 * 1024;
/** How long entries are processed before others are served. */
const TURN_MS = 10;

/** Imports conversations, several at the same time. */
export class ImportService {
  readonly #store: ImportStore;
  readonly #clock: Clock;
  readonly #retention: Retention;
  readonly #parallel: number;

  /** @param parallel conversations that are written at the same time */
  constructor(store: ImportStore, clock: Clock, retention: Retention, parallel: number) {
    this.#store = store;
    this.#clock = clock;
    this.#retention = retention;
    this.#parallel = parallel;
  }

  /**
   * A conversation that fails does not stop the others.
   * @param onProgress called after each conversation
   * @throws AppError `database_unavailable`, `database_busy`; and the errors of `entries`
   */
  async run(
    entries: AsyncIterable<ImportEntry>,
    request: ImportRequest,
    onProgress?: (counts: ImportCounts) => void,
  ): Promise<ImportCounts> {
    const tally = new Tally();
    const running = new Map<string, Promise<void>>();
    let bytes = 0;
    let failure: { error: unknown } | undefined;
    let turn = performance.now();
    const write = async (entry: ImportEntry, conversation: ImportedConversation): Promise<void> => {
      try {
        await this.#write(tally, entry, conversation, request);
        onProgress?.(tally);
      } catch (error) {
        failure ??= { error };
      } finally {
        bytes -= entry.bytes;
        running.delete(conversation.id);
      }
    };
    try {
      for await (const entry of entries) {
        const { conversation } = entry;
        if (entry.error !== undefined) tally.fail(entry.line, entry.error);
        if (!conversation) continue;
        // The later one of two lines with the same id must find the earlier one.
        await running.get(conversation.id);
        while (running.size >= this.#parallel || (running.size > 0 && bytes + entry.bytes > MAX_BYTES)) {
          await Promise.race(running.values());
        }
        bytes += entry.bytes;
        const writing = write(entry, conversation);
        running.set(conversation.id, writing);
        // The next line begins after the end of a long one.
        if (conversation.isLong) await writing;
        if (failure) throw failure.error;
        if (performance.now() - turn > TURN_MS) {
          await nextTurn();
          turn = performance.now();
        }
      }
    } finally {
      await Promise.all(running.values());
    }
    if (failure) throw failure.error;
    return tally.counts();
  }

  async #write(
    tally: Tally,
    { line, renamed }: ImportEntry,
    conversation: ImportedConversation,
    { pin, ...options }: ImportRequest,
  ): Promise<void> {
    const pinned = pin || conversation.pinned;
    const store = (one: ImportedConversation) => this.#store.write({ ...one, pinned }, options);
    try {
      const { outcome, messages } = await store(conversation).catch((error: unknown) => {
        if (renamed && error instanceof MessageTakenError) return store(renamed());
        throw error;
      });
      tally[outcome] += 1;
      if (outcome === 'skipped') return;
      tally.messages += messages;
      const { lastActive } = conversation;
      if (this.#retention.isExpired({ lastActive, pinned }, this.#clock.now())) tally.expired += 1;
    } catch (error) {
      if (!(error instanceof ImportError)) throw error;
      tally.fail(line, error.message);
    }
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

  counts(): ImportCounts {
    this.errors.sort((a, b) => a.line - b.line);
    const { imported, replaced, skipped, failed, expired, messages, errors } = this;
    return { imported, replaced, skipped, failed, expired, messages, errors };
  }
}
