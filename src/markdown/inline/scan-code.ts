import { BACKTICK } from '../chars.ts';
import { type Scan, skip } from './scan.ts';
import { END, MORE, type Source } from './source.ts';

export interface CodeSpan {
  /** The text form: the code, or the backticks alone when nothing closes them. */
  readonly text: string;
  readonly end: number;
  readonly isCode: boolean;
}

/** The code spans of one block. */
export class CodeSpans {
  /** For each length of a run of backticks, where the last one starts. */
  readonly #lastRuns = new Map<number, number>();
  /** Whether the end of the block has been seen, so that `#lastRuns` is complete. */
  #sawEnd = false;

  /** Reads what starts with the backtick at `start`. */
  *scan(source: Source, start: number): Scan<CodeSpan> {
    const from = yield* skip(source, start, isBacktick);
    const length = from - start;
    const isHopeless = this.#sawEnd && (this.#lastRuns.get(length) ?? -1) < from;
    const to = isHopeless ? -1 : yield* this.#findEnd(source, from, length);
    if (to < 0) return { text: '`'.repeat(length), end: from, isCode: false };
    return { text: codeText(source.slice(from, to)), end: to + length, isCode: true };
  }

  /** Where the run of backticks starts that closes the code; -1 when there is none. */
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

/** Line endings count as spaces; one space at both ends goes unless there is nothing else. */
function codeText(raw: string): string {
  const text = raw.replaceAll('\n', ' ');
  const isPadded = text.length > 2 && text.startsWith(' ') && text.endsWith(' ') && /[^ ]/.test(text);
  return isPadded ? text.slice(1, -1) : text;
}
