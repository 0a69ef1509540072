const ROOT = 0;
const UNITS = 0x1_0000;

/**
 * Aho-Corasick automaton over UTF-16 code units. A state stands for the longest suffix of the text that is a prefix of
 * a word. The children of a state are numbered consecutively in the order of their units, so a state takes 16 bytes.
 */
export class Automaton {
  /** UTF-16 units of the longest word. */
  readonly longest: number;
  readonly states: number;
  readonly #first: Uint32Array;
  readonly #unit: Uint16Array;
  readonly #fallback: Uint32Array;
  readonly #ends: Uint16Array;
  readonly #holds: Uint16Array;
  /** The root's children by unit. */
  readonly #starts = new Uint32Array(UNITS);

  /** @param words non-empty, at most 65535 units each */
  constructor(words: readonly string[]) {
    const sorted = [...new Set(words)].sort();
    this.longest = sorted.reduce((longest, word) => Math.max(longest, word.length), 0);
    this.states = countStates(sorted);
    this.#first = new Uint32Array(this.states + 1);
    this.#unit = new Uint16Array(this.states);
    this.#fallback = new Uint32Array(this.states);
    this.#ends = new Uint16Array(this.states);
    this.#holds = new Uint16Array(this.states);
    this.#build(sorted);
  }

  next(state: number, unit: number): number {
    let from = state;
    while (from !== ROOT) {
      const child = this.#child(from, unit);
      if (child !== ROOT) return child;
      from = this.#fallback[from] ?? ROOT;
    }
    return this.#starts[unit] ?? ROOT;
  }

  /** Length of the longest word that ends here, or 0. */
  ends(state: number): number {
    return this.#ends[state] ?? 0;
  }

  /** Length of the longest suffix that may still become a word. */
  holds(state: number): number {
    return this.#holds[state] ?? 0;
  }

  #child(state: number, unit: number): number {
    let low = this.#first[state] ?? 0;
    let high = (this.#first[state + 1] ?? 0) - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const found = this.#unit[middle] ?? 0;
      if (found === unit) return middle;
      if (found < unit) low = middle + 1;
      else high = middle - 1;
    }
    return ROOT;
  }

  /** Breadth first, because a state falls back to a state of lower depth. */
  #build(sorted: readonly string[]): void {
    const from = new Uint32Array(this.states);
    const to = new Uint32Array(this.states);
    const depths = new Uint16Array(this.states);
    to[ROOT] = sorted.length;
    let made = 1;
    for (let state = ROOT; state < this.states; state++) {
      const depth = depths[state] ?? 0;
      const end = to[state] ?? 0;
      let at = from[state] ?? 0;
      this.#first[state] = made;
      const isWord = state !== ROOT && sorted[at]?.length === depth;
      if (isWord) at++;
      this.#setLengths(state, depth, isWord, at < end);
      while (at < end) {
        const unit = sorted[at]?.charCodeAt(depth) ?? 0;
        from[made] = at;
        while (at < end && sorted[at]?.charCodeAt(depth) === unit) at++;
        to[made] = at;
        depths[made] = depth + 1;
        this.#unit[made] = unit;
        if (state === ROOT) this.#starts[unit] = made;
        else this.#fallback[made] = this.next(this.#fallback[state] ?? ROOT, unit);
        made++;
      }
    }
    this.#first[this.states] = made;
  }

  #setLengths(state: number, depth: number, isWord: boolean, hasChildren: boolean): void {
    const fallback = this.#fallback[state] ?? ROOT;
    this.#ends[state] = isWord ? depth : this.ends(fallback);
    this.#holds[state] = hasChildren ? depth : this.holds(fallback);
  }
}

function countStates(sorted: readonly string[]): number {
  let states = 1;
  let previous = '';
  for (const word of sorted) {
    let shared = 0;
    while (shared < previous.length && previous.charCodeAt(shared) === word.charCodeAt(shared)) shared++;
    states += word.length - shared;
    previous = word;
  }
  return states;
}
