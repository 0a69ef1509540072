import {
  classifyCharacter,
  classifyPrecedingCharacter,
  isCjk,
  isCjkOrIvs,
  isNonCjkPunctuation,
  isSpaceOrPunctuation,
  isUnicodeWhitespace,
} from 'micromark-extension-cjk-friendly-util';
import { STAR, TILDE, UNDERSCORE } from '../chars.ts';

export interface Flanking {
  readonly opens: boolean;
  readonly closes: boolean;
}

type Code = number | null;

/**
 * Whether a run of `mark` may open or close a span: CommonMark's flanking rules, extended for CJK text. The other
 * parameters are the code points around the run (null: none); `beforePrevious` matters if `previous` is a variation
 * selector.
 */
export function flanking(mark: number, beforePrevious: Code, previous: Code, next: Code): Flanking {
  const before = classifyPrecedingCharacter(classifyCharacter(previous), () => beforePrevious, previous);
  const after = classifyCharacter(next);
  if (mark === TILDE) return strikethrough(before, after);
  const punctuationBefore = isNonCjkPunctuation(before);
  const punctuationAfter = isNonCjkPunctuation(after);
  const edgeBefore = punctuationBefore || isUnicodeWhitespace(before) || isEmphasisMark(previous);
  const edgeAfter = punctuationAfter || isUnicodeWhitespace(after) || isEmphasisMark(next);
  const opens = !edgeAfter || (punctuationAfter && (edgeBefore || isCjkOrIvs(before))) || next === TILDE;
  const closes = !edgeBefore || (punctuationBefore && (edgeAfter || isCjk(after))) || previous === TILDE;
  if (mark === STAR) return { opens, closes };
  return {
    opens: opens && (isSpaceOrPunctuation(before) || !closes),
    closes: closes && (isSpaceOrPunctuation(after) || !opens),
  };
}

type Group = ReturnType<typeof classifyCharacter>;

function strikethrough(before: Group, after: Group): Flanking {
  const punctuationBefore = isNonCjkPunctuation(before);
  const punctuationAfter = isNonCjkPunctuation(after);
  const edgeBefore = punctuationBefore || isUnicodeWhitespace(before);
  const edgeAfter = punctuationAfter || isUnicodeWhitespace(after);
  return {
    opens: !edgeAfter || (punctuationAfter && (edgeBefore || isCjkOrIvs(before))),
    closes: !edgeBefore || (punctuationBefore && (edgeAfter || isCjk(after))),
  };
}

function isEmphasisMark(code: Code): boolean {
  return code === STAR || code === UNDERSCORE;
}
