import type { Config } from '../config/config.ts';
import type { FilterRule } from '../domain/filter.ts';
import { openWordSource, WordListError, type WordSource } from '../filter/index.ts';
import type { Logger } from '../logger.ts';
import { StartError } from './start-error.ts';

/** The filter rules; undefined means no filtering. */
export interface ContentFilter {
  readonly input: FilterRule | undefined;
  /** Of replies, when they are sent. */
  readonly output: FilterRule | undefined;
  /** Of replies, when they are stored. */
  readonly stored: FilterRule | undefined;
  /** Ends polling of the word list. */
  stop(): Promise<void>;
}

/**
 * Loads the word list, if one is configured, and polls its file.
 * @throws StartError if it cannot be loaded
 */
export async function openContentFilter(
  { file, input, output, store }: Config['filter'],
  log: Logger,
  pollMs?: number,
): Promise<ContentFilter> {
  const words = file === undefined ? undefined : await openWords(file, log, pollMs);
  const rule = (action: typeof input) => (words && action !== 'off' ? { words, action } : undefined);
  return {
    input: rule(input),
    output: rule(output),
    stored: store ? rule(output) : undefined,
    stop: async () => words?.stop(),
  };
}

function openWords(file: string, log: Logger, pollMs?: number): Promise<WordSource> {
  return openWordSource(file, log, pollMs).catch((error: unknown) => {
    if (!(error instanceof WordListError)) throw error;
    throw new StartError(`CONTENT_FILTER_FILE: ${error.message}`, error);
  });
}
