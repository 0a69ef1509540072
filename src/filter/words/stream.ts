import type { FilterAction, FilterStream } from '../../domain/filter.ts';
import { type Fold, Kind, kindOf } from './fold.ts';
import { type Found, Ranges } from './ranges.ts';
import type { Tracker } from './tracker.ts';

/** A character that is written in another way. */
export interface Spelled {
  readonly text: string;
  readonly end: number;
}

/** How text is read in which words are looked for. */
export interface Syntax {
  /** New ones, which look for words side by side; the ranges of the second one are `literal`. */
  trackers(): readonly Tracker[];
  /** What the reader gets for a found part of the text. */
  mask(part: string, literal: boolean): string;
  /** What the text at `at` stands for, if not for itself. */
  spelled(text: string, at: number, codePoint: number): Spelled | null;
  /** The place from which on the end of the text cannot be understood before more comes; its length: none. */
  understood(text: string): number;
}

/** Hands on text as soon as it is decided that it belongs to no word, and instead of words their masks. */
export class WordStream implements FilterStream {
  found = false;
  readonly #fold: Fold;
  readonly #syntax: Syntax;
  readonly #blocks: boolean;
  readonly #trackers: readonly Tracker[];
  readonly #ranges = new Ranges();
  /** Text not handed on, and where it begins. Of it, `#read` units have been looked at. */
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

  /** What was found lately; all of it after a single `push`. */
  get ranges(): readonly Found[] {
    return this.#ranges.all;
  }

  push(piece: string): string {
    if (this.blocked || piece === '') return '';
    const text = this.#held === '' ? piece : this.#held + piece;
    this.#ranges.forget(this.#base);
    const decided = this.#scan(text, this.#syntax.understood(text));
    return this.#handOn(text, decided);
  }

  end(): string {
    if (this.blocked) return '';
    const text = this.#held;
    const cut = this.#scan(text, text.length);
    return this.#handOn(text, this.blocked ? cut : this.#base + text.length);
  }

  /** Looks at the text up to `limit`, and returns up to where it is decided. */
  #scan(text: string, limit: number): number {
    let at = this.#read;
    while (at < limit) {
      const codePoint = text.codePointAt(at) ?? 0;
      const end = at + (codePoint > 0xffff ? 2 : 1);
      const before = this.#blocks ? this.#heldFrom(this.#base + at) : 0;
      const spelled = this.#syntax.spelled(text, at, codePoint);
      if (spelled === null) this.#take(codePoint, at, end);
      else for (const char of spelled.text) this.#take(char.codePointAt(0) ?? 0, at, spelled.end);
      if (this.blocked) return before;
      at = spelled?.end ?? end;
    }
    this.#read = at;
    // What is masked in any case has left already, even if a longer word may begin in it.
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

  #handOn(text: string, decided: number): string {
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
