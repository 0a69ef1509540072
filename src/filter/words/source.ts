import { stat } from 'node:fs/promises';
import { errorCode } from '../../domain/errors.ts';
import type { WordFilters, WordList } from '../../domain/filter.ts';
import type { Log } from '../../domain/runtime.ts';
import { createWordFilters } from './filters.ts';
import { Fold } from './fold.ts';
import { loadWords } from './words.ts';

const POLL_MS = 2000;

/** The words of the last valid version of a file. */
export interface WordSource extends WordList {
  /** Ends polling and waits for a poll in progress. */
  stop(): Promise<void>;
}

/**
 * Loads a word list and polls its file for changes. A change is loaded only when two polls see the same state, so that
 * a half-written file is not read. An invalid or missing file is logged once, and the previous list stays in use.
 * @throws WordListError if the first load fails
 */
export async function openWordSource(path: string, log: Log, pollMs = POLL_MS): Promise<WordSource> {
  const source = new PolledFile(path, log, pollMs);
  await source.start();
  return source;
}

class PolledFile implements WordSource {
  readonly #path: string;
  readonly #log: Log;
  readonly #pollMs: number;
  readonly #fold = new Fold();
  #filters: WordFilters;
  /** The state that was last loaded, successfully or not, and the state at the last poll. */
  #loaded = '';
  #seen = '';
  #timer: NodeJS.Timeout | undefined;
  #polling: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(path: string, log: Log, pollMs: number) {
    this.#path = path;
    this.#log = log;
    this.#pollMs = pollMs;
    this.#filters = createWordFilters([], this.#fold);
  }

  get filters(): WordFilters {
    return this.#filters;
  }

  async start(): Promise<void> {
    // Before reading, so that a write during the read shows at the next poll.
    const state = await stateOf(this.#path);
    await this.#load();
    this.#loaded = state;
    this.#seen = state;
    this.#schedule();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#polling;
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#polling = this.#poll().finally(() => this.#schedule());
    }, this.#pollMs);
    this.#timer.unref();
  }

  async #poll(): Promise<void> {
    const state = await stateOf(this.#path);
    const isStill = state === this.#seen;
    this.#seen = state;
    if (!isStill || state === this.#loaded) return;
    this.#loaded = state;
    try {
      await this.#load();
    } catch (error) {
      this.#log.error({ err: error }, 'word list not loaded, keeping the previous one');
    }
  }

  async #load(): Promise<void> {
    const started = performance.now();
    const words = await loadWords(this.#path);
    this.#filters = createWordFilters(words, this.#fold);
    const duration_ms = Math.round(performance.now() - started);
    this.#log.info({ words: words.length, duration_ms }, 'word list loaded');
  }
}

/** Changes when the file changes. */
async function stateOf(path: string): Promise<string> {
  try {
    const { mtimeMs, size, ino } = await stat(path);
    return `${mtimeMs} ${size} ${ino}`;
  } catch (error) {
    return errorCode(error) ?? 'unknown';
  }
}
