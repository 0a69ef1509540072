/** A word found in the text; overlapping ones are merged. */
export interface Found {
  start: number;
  end: number;
  /** A Markdown mark may be part of a word here. */
  literal: boolean;
}

/** Found words, ordered by their ends. */
export class Ranges {
  #found: Found[] = [];

  get all(): readonly Found[] {
    return this.#found;
  }

  /** Adds a word that ends at the current end of the text. */
  add(start: number, end: number, literal: boolean): void {
    const range = { start, end, literal };
    for (let last = this.#found.at(-1); last && last.end > range.start; last = this.#found.at(-1)) {
      range.start = Math.min(range.start, last.start);
      range.literal ||= last.literal;
      this.#found.pop();
    }
    this.#found.push(range);
  }

  /** Extends the last range if it ends at `at`, because a combining mark belongs to the character before it. */
  extend(at: number, end: number): void {
    const last = this.#found.at(-1);
    if (last?.end === at) last.end = end;
  }

  /** The end of the found text that covers `position` without a gap. */
  past(position: number): number {
    let end = position;
    for (const range of this.#found) if (range.start <= end && range.end > end) end = range.end;
    return end;
  }

  /** Removes ranges that end at or before `position`, except the last one, which may still grow. */
  forget(position: number): void {
    if (this.#found.length < 2) return;
    const first = this.#found.findIndex(({ end }) => end > position);
    this.#found = this.#found.slice(first < 0 ? -1 : first);
  }
}
