import {
  BACKSLASH,
  BRACE_CLOSE,
  BRACE_OPEN,
  BRACKET_CLOSE,
  DOLLAR,
  isAlpha,
  isAlphanumeric,
  isBlank,
  isDigit,
  NEWLINE,
  PAREN_CLOSE,
  PAREN_OPEN,
  SPACE,
} from '../chars.ts';
import { peek, type Scan } from './scan.ts';
import { END, MORE, type Source } from './source.ts';

/** Full-width punctuation of sentences. Formulas do not have it outside braces. */
const SENTENCE_MARKS = '、。！，：；？';
/** `\[1\]` is an escaped citation, and `\[a\](b)` an escaped link. */
const CITATION = /^[\d,\s–-]*$/;

/** The LaTeX formulas of one block. Each of them is in one line; formulas of several lines are blocks. */
export class MathSpans {
  /** By the last code unit of the closing mark: no formula ends before this position. Keeps the cost linear. */
  readonly #noneBefore = new Map<number, number>();

  /** Reads `$…$`, `$$…$$`, or the dollar signs at `start`: their end, and whether it is a formula. */
  *scanDollars(source: Source, start: number): Scan<{ readonly end: number; readonly isMath: boolean }> {
    let from = start + 1;
    while ((yield* peek(source, from)) === DOLLAR) from++;
    const length = from - start;
    let end = -1;
    if (length === 1) end = yield* scanDollar(source, start);
    else if (length === 2) end = yield* this.#findEnd(source, from, DOLLAR, DOLLAR);
    return { end: end < 0 ? from : end, isMath: end >= 0 };
  }

  /** The position after the `\(…\)` or `\[…\]` at `start`; -1 if none starts there. */
  *scanEscaped(source: Source, start: number): Scan<number> {
    const isInline = source.at(start + 1) === PAREN_OPEN;
    const from = start + 2;
    const end = yield* this.#findEnd(source, from, BACKSLASH, isInline ? PAREN_CLOSE : BRACKET_CLOSE);
    if (end < 0 || isInline) return end;
    const isText = CITATION.test(source.slice(from, end - 2)) || (yield* peek(source, end)) === PAREN_OPEN;
    if (!isText) return end;
    // Brackets before this end have the same end.
    this.#noneBefore.set(BRACKET_CLOSE, end);
    return -1;
  }

  /** The position after the first closing mark of two code units in this line; -1 without one. */
  *#findEnd(source: Source, from: number, first: number, second: number): Scan<number> {
    if (from < (this.#noneBefore.get(second) ?? 0)) return -1;
    let previous = 0;
    for (let at = from; ; ) {
      const code = source.at(at);
      if (code === MORE) {
        yield;
        continue;
      }
      if (code === END || code === NEWLINE) {
        this.#noneBefore.set(second, at);
        return -1;
      }
      at++;
      if (code === second && previous === first) return at;
      // A backslash escapes one code unit.
      previous = previous === BACKSLASH ? 0 : code;
    }
  }
}

/**
 * The position after the `$…$` at `start`; -1 if none starts there. Prices and variables are no formulas: no white space
 * stands inside the dollar signs, no letter or digit before them, no digit after them, and no sentence between them.
 */
function* scanDollar(source: Source, start: number): Scan<number> {
  const first = yield* peek(source, start + 1);
  if (isBlank(first) || (first !== BACKSLASH && isAlphanumeric(source.before(start)))) return -1;
  const prose = new Prose();
  for (let at = start + 1; ; at++) {
    const code = yield* peek(source, at);
    if (code === END || code === NEWLINE) return -1;
    if (code === DOLLAR) {
      const isEnd = !isBlank(source.at(at - 1)) && !isDigit(yield* peek(source, at + 1));
      return isEnd ? at + 1 : -1;
    }
    if (code === BACKSLASH) {
      at++;
      const escaped = yield* peek(source, at);
      if (escaped === END || escaped === NEWLINE) return -1;
      prose.addEscaped(escaped);
    } else if (prose.add(code)) {
      return -1;
    }
  }
}

/** Recognizes a sentence: two words in a row, or a full-width punctuation mark, outside braces. */
class Prose {
  #depth = 0;
  /** Letters of the current word; -1 in a command such as `\alpha`. */
  #letters = 0;
  #afterWord = false;

  addEscaped(code: number): void {
    this.#letters = isAlpha(code) ? -1 : 0;
    this.#afterWord = false;
  }

  /** Returns whether it is a sentence. */
  add(code: number): boolean {
    if (isAlpha(code)) {
      if (this.#letters < 0) return false;
      this.#letters++;
      return this.#letters === 2 && this.#afterWord && this.#depth === 0;
    }
    if (code === BRACE_OPEN) this.#depth++;
    else if (code === BRACE_CLOSE && this.#depth > 0) this.#depth--;
    this.#afterWord = code === SPACE && this.#letters > 1 && this.#depth === 0;
    this.#letters = 0;
    return code > 0x3000 && this.#depth === 0 && SENTENCE_MARKS.includes(String.fromCharCode(code));
  }
}
