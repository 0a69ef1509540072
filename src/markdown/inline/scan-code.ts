import { BACKTICK } from '../chars.ts';
import { type Scan, skip } from './scan.ts';
import { END, MORE, type Source } from './source.ts';

export interface CodeSpan {
  /** The code, or the backticks if nothing closes them. */
  readonly text: string;
  readonly end: number;
  readonly isCode: boolean;
}

/** The code spans of one block. */
export class CodeSpans {
  /** Start of the last run of backticks, by its length. */
  readonly #lastRuns = new Map<number, number>();
  /** Whether the block has been read to its end, so that `#lastRuns` is complete. */
  #sawEnd = false;

  /** Reads the code span or backticks at `start`. */
  *scan(source: Source, start: number): Scan<CodeSpan> {
    const from = yield* skip(source, start, isBacktick);
    const length = from - start;
    const isUnclosed = this.#sawEnd && (this.#lastRuns.get(length) ?? -1) < from;
    const to = isUnclosed ? -1 : yield* this.#findEnd(source, from, length);
    if (to < 0) return { text: '`'.repeat(length), end: from, isCode: false };
    return { text: codeText(source.slice(from, to)), end: to + length, isCode: true };
  }

  /** Start of the closing run of backticks; -1 if there is none. */
  *#findEnd(source: Source, from: number, length: number): Scan<number> {
    let run = 0;
    for (let at = from; ; ) {
      const code = source.at(at);
      if (code === MORE) {
        yield;
        continue;
      }
      if (code === BACKTICK) {
        run++;
      } else {
        if (run === length) return at - run;
        if (run > 0) this.#lastRuns.set(run, at - run);
        run = 0;
      }
      if (code === END) break;
      at++;
    }
    this.#sawEnd = true;
    return -1;
  }
}

function isBacktick(code: number): boolean {
  return code === BACKTICK;
}

/** Line endings become spaces; one space at both ends is removed, unless the code is all spaces. */
function codeText(raw: string): string {
  const text = raw.replaceAll('\n', ' ');
  const isPadded = text.length > 2 && text.startsWith(' ') && text.endsWith(' ') && /[^ ]/.test(text);
  return isPadded ? text.slice(1, -1) : text;
}
