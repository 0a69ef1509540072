import type { Config } from '../config/config.ts';
import type { FilterRule } from '../domain/filter.ts';
import { openWordSource, WordListError, type WordSource } from '../filter/index.ts';
import type { Logger } from '../logger.ts';
import { StartError } from './start-error.ts';

/** What is done to words, by direction; undefined: nothing. */
export interface ContentFilter {
  readonly input: FilterRule | undefined;
  /** For what readers get. */
  readonly output: FilterRule | undefined;
  /** For what is stored of replies. */
  readonly stored: FilterRule | undefined;
  /** Follows the list no more. */
  stop(): Promise<void>;
}

/**
 * Loads the list of words, if there is to be one, and follows it.
 * @throws StartError when it cannot be used
 */
export async function openContentFilter(
  { file, input, output, store }: Config['filter'],
  log: Logger,
  lookEveryMs?: number,
): Promise<ContentFilter> {
  const words = file === undefined ? undefined : await openWords(file, log, lookEveryMs);
  const rule = (action: typeof input) => (words && action !== 'off' ? { words, action } : undefined);
  return {
    input: rule(input),
    output: rule(output),
    stored: store ? rule(output) : undefined,
    stop: async () => words?.stop(),
  };
}

function openWords(file: string, log: Logger, lookEveryMs?: number): Promise<WordSource> {
  return openWordSource(file, log, lookEveryMs).catch((error: unknown) => {
    if (!(error instanceof WordListError)) throw error;
    throw new StartError(`CONTENT_FILTER_FILE: ${error.message}`, error);
  });
}
