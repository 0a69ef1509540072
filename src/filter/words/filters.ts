import type { WordFilter, WordFilters } from '../../domain/filter.ts';
import { Automaton } from './automaton.ts';
import type { Fold } from './fold.ts';
import { beforeReference, ESCAPE, MARKS, maskMarkdown, reference } from './markdown.ts';
import { type Syntax, WordStream } from './stream.ts';
import { passing, Tracker } from './tracker.ts';

const MASK = '*';
const CODE_POINT = /./gsu;

/** @param words as {@link loadWords} gives them */
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
  const nothing = passing('');
  return {
    trackers: () => [new Tracker(words, fold, nothing)],
    mask: (part) => part.replace(CODE_POINT, MASK),
    spelled: () => null,
    understood: (text) => text.length,
  };
}

/**
 * Words with marks in them are looked for a second time, without passing over marks: the first way never finds them,
 * and if it looked for them without their marks, `C*` would be every `C`.
 */
function markdownSyntax(all: Automaton, words: readonly string[], fold: Fold): Syntax {
  const marked = words.filter((word) => hasMark(word));
  const bare = marked.map((word) => word.replaceAll(ESCAPE, '')).filter((word) => word !== '');
  const literal = bare.length === 0 ? null : new Automaton(bare);
  const passed = { marks: passing(MARKS), escape: passing(ESCAPE) };
  return {
    trackers: () => [
      new Tracker(all, fold, passed.marks),
      ...(literal ? [new Tracker(literal, fold, passed.escape)] : []),
    ],
    mask: maskMarkdown,
    spelled: reference,
    understood: beforeReference,
  };
}

function hasMark(word: string): boolean {
  for (const mark of MARKS) if (word.includes(mark)) return true;
  return false;
}
