/** Past the end of the text, and the text is complete. */
export const END = -1;
/** Past the end of what has come so far. */
export const MORE = -2;

/** How many code units stay readable behind the place that was last forgotten up to. */
const LOOK_BACK = 16;
const FORGET_FROM = 4096;
const SLICE = 8192;

/**
 * The text of one block while it arrives: code units at absolute positions, in an array that grows by doubling.
 * (A string would be copied whole each time it is read after a piece was added: quadratic for a long block.)
 */
export class Source {
  #units = new Uint16Array(64);
  #base = 0;
  #end = 0;
  #closed = false;

  /** The position after the last code unit that has come. */
  get end(): number {
    return this.#end;
  }

  append(text: string): void {
    const used = this.#end - this.#base;
    if (used + text.length > this.#units.length) this.#grow(used + text.length);
    for (let i = 0; i < text.length; i++) this.#units[used + i] = text.charCodeAt(i);
    this.#end += text.length;
  }

  /** No more text will come. */
  close(): void {
    this.#closed = true;
  }

  /** The code unit at a position, or END, or MORE. */
  at(position: number): number {
    if (position >= this.#end) return this.#closed ? END : MORE;
    return this.#units[position - this.#base] ?? END;
  }

  /** The code point that ends right before a position; END at the start of the text. */
  before(position: number): number {
    const low = this.#units[position - 1 - this.#base] ?? END;
    if (low < 0xdc00 || low > 0xdfff) return low;
    const high = this.#units[position - 2 - this.#base] ?? END;
    return high >= 0xd800 && high <= 0xdbff ? (high - 0xd800) * 0x400 + (low - 0xdc00) + 0x10000 : low;
  }

  slice(from: number, to: number): string {
    let text = '';
    for (let start = from - this.#base; start < to - this.#base; start += SLICE) {
      const part = this.#units.subarray(start, Math.min(start + SLICE, to - this.#base));
      text += String.fromCharCode(...part);
    }
    return text;
  }

  /** What lies before a position is not needed any more, but for a few characters to look back at. */
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
