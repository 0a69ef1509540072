import { stat } from 'node:fs/promises';
import { errorCode } from '../../domain/errors.ts';
import type { WordFilters, WordList } from '../../domain/filter.ts';
import type { Log } from '../../domain/runtime.ts';
import { createWordFilters } from './filters.ts';
import { Fold } from './fold.ts';
import { loadWords } from './words.ts';

const LOOK_EVERY_MS = 2000;

/** The words of a file: those of its last good state. */
export interface WordSource extends WordList {
  /** Looks at the file no more, and waits for a look under way. */
  stop(): Promise<void>;
}

/**
 * Loads a list of words and follows its file: it is looked at every `lookEveryMs`, and a change counts when the file
 * has been still from one look to the next, so that no half of a list is taken for all of it. While a list is broken
 * or away, the last good one holds; that is logged once.
 * @throws WordListError when there is no good list to begin with
 */
export async function openWordSource(
  path: string,
  log: Log,
  lookEveryMs = LOOK_EVERY_MS,
): Promise<WordSource> {
  const source = new FollowedFile(path, log, lookEveryMs);
  await source.start();
  return source;
}

class FollowedFile implements WordSource {
  readonly #path: string;
  readonly #log: Log;
  readonly #lookEveryMs: number;
  readonly #fold = new Fold();
  #filters: WordFilters;
  /** The file as it was loaded or found to be broken, and at the last look. */
  #known = '';
  #seen = '';
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(path: string, log: Log, lookEveryMs: number) {
    this.#path = path;
    this.#log = log;
    this.#lookEveryMs = lookEveryMs;
    this.#filters = createWordFilters([], this.#fold);
  }

  get filters(): WordFilters {
    return this.#filters;
  }

  async start(): Promise<void> {
    // Looked at before it is read: what is written meanwhile shows at the next look.
    const state = await stateOf(this.#path);
    await this.#load();
    this.#known = state;
    this.#seen = state;
    this.#plan();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#looking;
  }

  #plan(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#looking = this.#look().finally(() => this.#plan());
    }, this.#lookEveryMs);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    const state = await stateOf(this.#path);
    const isStill = state === this.#seen;
    this.#seen = state;
    if (!isStill || state === this.#known) return;
    this.#known = state;
    try {
      await this.#load();
    } catch (error) {
      this.#log.error({ err: error }, 'the list of words cannot be used; the last good one holds');
    }
  }

  async #load(): Promise<void> {
    const started = performance.now();
    const words = await loadWords(this.#path);
    this.#filters = createWordFilters(words, this.#fold);
    const ms = Math.round(performance.now() - started);
    this.#log.info({ words: words.length, ms }, 'the list of words is loaded');
  }
}

/** Text that is another one when the file is. */
async function stateOf(path: string): Promise<string> {
  try {
    const { mtimeMs, size, ino } = await stat(path);
    return `${mtimeMs} ${size} ${ino}`;
  } catch (error) {
    return errorCode(error) ?? 'unknown';
  }
}
