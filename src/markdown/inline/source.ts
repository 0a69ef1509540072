/** The position is past the end of the complete text. */
export const END = -1;
/** The position is past the available text; more may come. */
export const MORE = -2;

/** Code units that stay readable before the position passed to `forget`. */
const LOOK_BACK = 16;
const FORGET_FROM = 4096;
const SLICE = 8192;
/** Shorter slices are faster unit by unit than through a view of the array. */
const SHORT = 24;

/**
 * The arriving text of one block: code units at absolute positions, in an array that grows by doubling. A string
 * would be flattened on each read after an append, which is quadratic for a long block.
 */
export class Source {
  #units = new Uint16Array(64);
  #base = 0;
  #end = 0;
  #closed = false;

  /** The position after the last available code unit. */
  get end(): number {
    return this.#end;
  }

  append(text: string): void {
    const used = this.#end - this.#base;
    if (used + text.length > this.#units.length) this.#grow(used + text.length);
    for (let i = 0; i < text.length; i++) this.#units[used + i] = text.charCodeAt(i);
    this.#end += text.length;
  }

  /** Marks the text as complete. */
  close(): void {
    this.#closed = true;
  }

  /** The code unit at a position, END or MORE. */
  at(position: number): number {
    if (position >= this.#end) return this.#closed ? END : MORE;
    return this.#units[position - this.#base] ?? END;
  }

  /** The code point before a position; END at the start of the text. */
  before(position: number): number {
    const low = this.#units[position - 1 - this.#base] ?? END;
    if (low < 0xdc00 || low > 0xdfff) return low;
    const high = this.#units[position - 2 - this.#base] ?? END;
    return high >= 0xd800 && high <= 0xdbff ? (high - 0xd800) * 0x400 + (low - 0xdc00) + 0x10000 : low;
  }

  slice(from: number, to: number): string {
    let text = '';
    if (to - from < SHORT) {
      for (let at = from - this.#base; at < to - this.#base; at++)
        text += String.fromCharCode(this.#units[at] ?? 0);
      return text;
    }
    for (let start = from - this.#base; start < to - this.#base; start += SLICE) {
      const part = this.#units.subarray(start, Math.min(start + SLICE, to - this.#base));
      text += String.fromCharCode(...part);
    }
    return text;
  }

  /** Frees the text before a position, except the last LOOK_BACK code units. */
  forget(position: number): void {
    const drop = position - LOOK_BACK - this.#base;
    if (drop < FORGET_FROM) return;
    this.#units.copyWithin(0, drop, this.#end - this.#base);
    this.#base += drop;
  }

  #grow(needed: number): void {
    const units = new Uint16Array(Math.max(needed, this.#units.length * 2));
    units.set(this.#units);
    this.#units = units;
  }
}
