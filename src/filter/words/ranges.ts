/** A range of words, overlapping ones taken together. */
export interface Found {
  start: number;
  end: number;
  /** Whether a mark of Markdown may belong to a word here. */
  literal: boolean;
}

/** What was found, in order, each end at or after the one before. */
export class Ranges {
  #found: Found[] = [];

  get all(): readonly Found[] {
    return this.#found;
  }

  /** A word that ends where the text ends so far. */
  add(start: number, end: number, literal: boolean): void {
    const range = { start, end, literal };
    for (let last = this.#found.at(-1); last && last.end > range.start; last = this.#found.at(-1)) {
      range.start = Math.min(range.start, last.start);
      range.literal ||= last.literal;
      this.#found.pop();
    }
    this.#found.push(range);
  }

  /** What stands at `at` belongs to the character before it: when that was found, it is too. */
  extend(at: number, end: number): void {
    const last = this.#found.at(-1);
    if (last?.end === at) last.end = end;
  }

  /** From `position` on, over all that is found without a gap. */
  past(position: number): number {
    let end = position;
    for (const range of this.#found) if (range.start <= end && range.end > end) end = range.end;
    return end;
  }

  /** Forgets what ends at `position` or before, but for the last one, which may grow. */
  forget(position: number): void {
    if (this.#found.length < 2) return;
    const kept = this.#found.findIndex(({ end }) => end > position);
    this.#found = this.#found.slice(kept < 0 ? -1 : kept);
  }
}
