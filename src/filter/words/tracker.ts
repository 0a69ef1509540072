import type { Automaton } from './automaton.ts';
import { codePointOf, type Fold, Kind, kindOf } from './fold.ts';

/**
 * What does not count may stand between the characters of a word this many times in a row; then the word is given
 * up. It bounds how much a stream holds back.
 */
export const MAX_GAP = 32;

/** ASCII characters by their codes; those with a 1 are passed over. */
export type Passed = Uint8Array;

export function passing(chars: string): Passed {
  const passed = new Uint8Array(128);
  for (const char of chars) passed[char.charCodeAt(0)] = 1;
  return passed;
}

/** Follows a text character by character, and says where words end and what may still become one. */
export class Tracker {
  readonly #automaton: Automaton;
  readonly #fold: Fold;
  readonly #passed: Passed;
  /** Where the last units began, in a ring. */
  readonly #begins: Float64Array;
  readonly #ring: number;
  #state = 0;
  #units = 0;
  #gap = 0;
  #afterWide = false;

  constructor(automaton: Automaton, fold: Fold, passed: Passed) {
    this.#automaton = automaton;
    this.#fold = fold;
    this.#passed = passed;
    // A power of two that the longest word fits in.
    const size = 2 ** Math.ceil(Math.log2(automaton.longest + 1));
    this.#begins = new Float64Array(size);
    this.#ring = size - 1;
  }

  /** Takes the code point at `at`, and returns where the longest word begins that ends with it; -1: none does. */
  take(codePoint: number, at: number): number {
    const value = this.#fold.of(codePoint);
    const kind = kindOf(value);
    if (kind >= Kind.space && (kind === Kind.mark || this.#afterWide)) return this.#pass();
    if (codePoint < 128 && this.#passed[codePoint] === 1) return this.#pass();
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

  /** From where on the text up to `end` may still become a word; `end` when nothing of it may. */
  heldFrom(end: number): number {
    const length = this.#automaton.holds(this.#state);
    return length === 0 ? end : this.#beginOf(length);
  }

  #pass(): number {
    if (this.#state !== 0 && ++this.#gap > MAX_GAP) this.#state = 0;
    return -1;
  }

  #step(unit: number, at: number): void {
    this.#begins[this.#units & this.#ring] = at;
    // Only the differences count: the number may wrap around.
    this.#units = (this.#units + 1) | 0;
    this.#state = this.#automaton.next(this.#state, unit);
  }

  #beginOf(length: number): number {
    return this.#begins[(this.#units - length) & this.#ring] ?? 0;
  }
}
