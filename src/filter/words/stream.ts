import type { FilterAction, FilterStream } from '../../domain/filter.ts';
import { type Fold, Kind, kindOf } from './fold.ts';
import { type Found, Ranges } from './ranges.ts';
import type { Tracker } from './tracker.ts';

/** The decoded text of a character reference. */
export interface Decoded {
  readonly text: string;
  readonly end: number;
}

/** How a text format is read and masked. */
export interface Syntax {
  /** New trackers, used in parallel; the ranges of the second one are `literal`. */
  trackers(): readonly Tracker[];
  /** The replacement of a found part. */
  mask(part: string, literal: boolean): string;
  /** The character reference at `at`, decoded, if there is one. */
  decode(text: string, at: number, codePoint: number): Decoded | null;
  /** Start of an incomplete character reference at the end of the text, or the text's length. */
  readableLength(text: string): number;
}

/** Emits text as soon as it cannot be part of a word, and masks in place of words. */
export class WordStream implements FilterStream {
  found = false;
  readonly #fold: Fold;
  readonly #syntax: Syntax;
  readonly #blocks: boolean;
  readonly #trackers: readonly Tracker[];
  readonly #ranges = new Ranges();
  /** Text not yet emitted, its position, and the number of its units that the trackers have read. */
  #held = '';
  #base = 0;
  #read = 0;

  constructor(fold: Fold, syntax: Syntax, action: FilterAction) {
    this.#fold = fold;
    this.#syntax = syntax;
    this.#blocks = action === 'block';
    this.#trackers = syntax.trackers();
  }

  get blocked(): boolean {
    return this.#blocks && this.found;
  }

  /** The latest findings; all of them if there was only one `push`. */
  get ranges(): readonly Found[] {
    return this.#ranges.all;
  }

  push(piece: string): string {
    if (this.blocked || piece === '') return '';
    const text = this.#held === '' ? piece : this.#held + piece;
    this.#ranges.forget(this.#base);
    const decided = this.#scan(text, this.#syntax.readableLength(text));
    return this.#emit(text, decided);
  }

  end(): string {
    if (this.blocked) return '';
    const text = this.#held;
    const cut = this.#scan(text, text.length);
    return this.#emit(text, this.blocked ? cut : this.#base + text.length);
  }

  /** Reads the text up to `limit`; returns the position up to which it can be emitted. */
  #scan(text: string, limit: number): number {
    let at = this.#read;
    while (at < limit) {
      const codePoint = text.codePointAt(at) ?? 0;
      const end = at + (codePoint > 0xffff ? 2 : 1);
      const before = this.#blocks ? this.#heldFrom(this.#base + at) : 0;
      const decoded = this.#syntax.decode(text, at, codePoint);
      if (decoded === null) this.#take(codePoint, at, end);
      else for (const char of decoded.text) this.#take(char.codePointAt(0) ?? 0, at, decoded.end);
      if (this.blocked) return before;
      at = decoded?.end ?? end;
    }
    this.#read = at;
    // Found words are masked immediately, even if a longer word may begin in them.
    return this.#ranges.past(Math.max(this.#heldFrom(this.#base + at), this.#base));
  }

  #take(codePoint: number, at: number, end: number): void {
    const begin = this.#base + at;
    for (let index = 0; index < this.#trackers.length; index++) {
      const start = this.#trackers[index]?.take(codePoint, begin) ?? -1;
      if (start < 0) continue;
      this.#ranges.add(start, this.#base + end, index > 0);
      this.found = true;
    }
    if (this.found && kindOf(this.#fold.of(codePoint)) === Kind.mark)
      this.#ranges.extend(begin, this.#base + end);
  }

  #heldFrom(end: number): number {
    let from = end;
    for (const tracker of this.#trackers) from = Math.min(from, tracker.heldFrom(end));
    return from;
  }

  #emit(text: string, decided: number): string {
    const length = decided - this.#base;
    const output = this.#masked(text, length);
    this.#held = length === text.length ? '' : text.slice(length);
    this.#read -= length;
    this.#base = decided;
    return output;
  }

  #masked(text: string, length: number): string {
    if (!this.found || this.#blocks) return length === text.length ? text : text.slice(0, length);
    let output = '';
    let at = 0;
    for (const { start, end, literal } of this.#ranges.all) {
      const from = Math.max(start - this.#base, 0);
      const to = end - this.#base;
      if (to <= from || from >= length) continue;
      output += text.slice(at, from) + this.#syntax.mask(text.slice(from, to), literal);
      at = to;
    }
    return output + text.slice(at, length);
  }
}
