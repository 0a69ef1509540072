/** The content filter: docs/content-filter.md. */
import type { TextStream } from './chat/text-format.ts';

/** `block` ends the text before the first word. */
export type FilterAction = 'mask' | 'block';

/** UTF-16 offsets; `end` is exclusive. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

export interface Filtered {
  readonly text: string;
  /** Found words in the original text, overlapping ones merged; with `block` only the first. */
  readonly hits: readonly Range[];
}

export interface FilterStream extends TextStream {
  readonly found: boolean;
  /** A word was found and the text has ended; never with `mask`. */
  readonly blocked: boolean;
}

export interface WordFilter {
  whole(text: string, action: FilterAction): Filtered;
  /**
   * Filters text piece by piece, with the same result as `whole`. Holds back only the longest end of the text that may
   * still become a word.
   */
  stream(action: FilterAction): FilterStream;
}

export interface WordFilters {
  /** For plain text. */
  readonly text: WordFilter;
  /** For Markdown: finds words with marks between their characters. */
  readonly markdown: WordFilter;
}

export interface WordList {
  /** The current filters; replaced when the list is reloaded. A filter that was taken stays valid. */
  readonly filters: WordFilters;
}

/** The filter of questions or of replies. */
export interface FilterRule {
  readonly words: WordList;
  readonly action: FilterAction;
}
