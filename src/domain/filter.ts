/** Words that are not allowed: how texts are judged by them, and the ports for it. See docs/content-filter.md. */
import type { TextStream } from './chat/text-format.ts';

/** What happens to words: they are masked, or the text ends before the first one. */
export type FilterAction = 'mask' | 'block';

/** UTF-16 offsets in the original text; `end` is the first one after it. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

export interface Filtered {
  readonly text: string;
  /** Where words are in the original, overlapping ones taken together; with `block` only the first one. */
  readonly hits: readonly Range[];
}

export interface FilterStream extends TextStream {
  /** Whether a word has been found. */
  readonly found: boolean;
  /** Whether a word has been found and nothing comes out any more; never with `mask`. */
  readonly blocked: boolean;
}

/** Looks for words in a text. */
export interface WordFilter {
  /** All of it at once. */
  whole(text: string, action: FilterAction): Filtered;
  /**
   * Piece by piece: what comes out is, put together, the text of `whole`, however it is cut. Held back is only the
   * longest end of the text that may still become a word.
   */
  stream(action: FilterAction): FilterStream;
}

/** One list of words. */
export interface WordFilters {
  /** For text without marks, such as the text form. */
  readonly text: WordFilter;
  /** For Markdown: words count though marks lie between their characters. */
  readonly markdown: WordFilter;
}

/** A list that may change while it is used. */
export interface WordList {
  /** Those of now. Whatever takes several steps goes on with the ones it began with. */
  readonly filters: WordFilters;
}

/** What is done in one direction. */
export interface FilterRule {
  readonly words: WordList;
  readonly action: FilterAction;
}
