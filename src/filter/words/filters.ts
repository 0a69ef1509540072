import type { WordFilter, WordFilters } from '../../domain/filter.ts';
import { Automaton } from './automaton.ts';
import type { Fold } from './fold.ts';
import { beforeReference, decodeReference, ESCAPE, MARKS, maskMarkdown } from './markdown.ts';
import { type Syntax, WordStream } from './stream.ts';
import { skipping, Tracker } from './tracker.ts';

const MASK = '*';
const CODE_POINT = /./gsu;

export function createWordFilters(words: readonly string[], fold: Fold): WordFilters {
  const folded = words.map((word) => fold.word(word)).filter((word) => word !== '');
  const all = new Automaton(folded);
  return {
    text: filterOf(textSyntax(all, fold), fold),
    markdown: filterOf(markdownSyntax(all, folded, fold), fold),
  };
}

function filterOf(syntax: Syntax, fold: Fold): WordFilter {
  return {
    whole(text, action) {
      const stream = new WordStream(fold, syntax, action);
      const start = stream.push(text);
      const all = stream.blocked ? start : start + stream.end();
      return { text: all, hits: stream.ranges.map(({ start, end }) => ({ start, end })) };
    },
    stream: (action) => new WordStream(fold, syntax, action),
  };
}

function textSyntax(words: Automaton, fold: Fold): Syntax {
  const nothing = skipping('');
  return {
    trackers: () => [new Tracker(words, fold, nothing)],
    mask: (part) => part.replace(CODE_POINT, MASK),
    decode: () => null,
    readableLength: (text) => text.length,
  };
}

/**
 * The first tracker skips marks, so it never finds words that contain them; without their marks, `C*` would match
 * every `C`. A second tracker looks for those words and skips only backslashes.
 */
function markdownSyntax(all: Automaton, words: readonly string[], fold: Fold): Syntax {
  const marked = words.filter((word) => hasMark(word));
  const bare = marked.map((word) => word.replaceAll(ESCAPE, '')).filter((word) => word !== '');
  const literal = bare.length === 0 ? null : new Automaton(bare);
  const skipped = { marks: skipping(MARKS), escape: skipping(ESCAPE) };
  return {
    trackers: () => [
      new Tracker(all, fold, skipped.marks),
      ...(literal ? [new Tracker(literal, fold, skipped.escape)] : []),
    ],
    mask: maskMarkdown,
    decode: decodeReference,
    readableLength: beforeReference,
  };
}

function hasMark(word: string): boolean {
  for (const mark of MARKS) if (word.includes(mark)) return true;
  return false;
}
