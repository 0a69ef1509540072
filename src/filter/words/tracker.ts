import type { Automaton } from './automaton.ts';
import { codePointOf, type Fold, Kind, kindOf } from './fold.ts';

/** Longest run of skipped characters within a word. Bounds the text that a stream holds back. */
export const MAX_GAP = 32;

/** By ASCII code: 1 for characters that are skipped. */
export type Skipped = Uint8Array;

export function skipping(chars: string): Skipped {
  const skipped = new Uint8Array(128);
  for (const char of chars) skipped[char.charCodeAt(0)] = 1;
  return skipped;
}

/** Follows a text by code point; knows where words end and which text may still become one. */
export class Tracker {
  readonly #automaton: Automaton;
  readonly #fold: Fold;
  readonly #skipped: Skipped;
  /** Ring buffer with the positions of the last units. */
  readonly #begins: Float64Array;
  readonly #ring: number;
  #state = 0;
  #units = 0;
  #gap = 0;
  #afterWide = false;

  constructor(automaton: Automaton, fold: Fold, skipped: Skipped) {
    this.#automaton = automaton;
    this.#fold = fold;
    this.#skipped = skipped;
    // A power of two that fits the longest word.
    const size = 2 ** Math.ceil(Math.log2(automaton.longest + 1));
    this.#begins = new Float64Array(size);
    this.#ring = size - 1;
  }

  /** Takes the code point at `at`; returns the start of the longest word that ends with it, or -1. */
  take(codePoint: number, at: number): number {
    const value = this.#fold.of(codePoint);
    const kind = kindOf(value);
    if (kind >= Kind.space && (kind === Kind.mark || this.#afterWide)) return this.#skip();
    if (codePoint < 128 && this.#skipped[codePoint] === 1) return this.#skip();
    this.#gap = 0;
    this.#afterWide = kind === Kind.wide;
    const folded = codePointOf(value);
    if (folded <= 0xffff) {
      this.#step(folded, at);
    } else {
      this.#step(0xd7c0 + (folded >>> 10), at);
      this.#step(0xdc00 + (folded & 0x3ff), at);
    }
    const length = this.#automaton.ends(this.#state);
    return length === 0 ? -1 : this.#beginOf(length);
  }

  /** Start of the text before `end` that may still become a word, or `end`. */
  heldFrom(end: number): number {
    const length = this.#automaton.holds(this.#state);
    return length === 0 ? end : this.#beginOf(length);
  }

  #skip(): number {
    if (this.#state !== 0 && ++this.#gap > MAX_GAP) this.#state = 0;
    return -1;
  }

  #step(unit: number, at: number): void {
    this.#begins[this.#units & this.#ring] = at;
    // May wrap around, because only differences are used.
    this.#units = (this.#units + 1) | 0;
    this.#state = this.#automaton.next(this.#state, unit);
  }

  #beginOf(length: number): number {
    return this.#begins[(this.#units - length) & this.#ring] ?? 0;
  }
}
