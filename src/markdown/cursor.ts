import { isSpace, TAB } from './chars.ts';

/** The code unit that the cursor reports past the last character. */
export const LINE_END = -1;

const TAB_STOP = 4;

/**
 * A position at the start of a line of which a part may still be missing. Reading past the available text sets
 * `starved`: conclusions are then valid only if the line is complete.
 */
export class Cursor {
  readonly #line: string;
  readonly #complete: boolean;
  starved = false;
  offset = 0;
  column = 0;
  /** Remaining columns of a partially consumed tab; they count as spaces. */
  padding = 0;
  /** Offset of the next character other than a space or tab. */
  textOffset = 0;
  #textColumn = 0;

  constructor(line: string, complete: boolean) {
    this.#line = line;
    this.#complete = complete;
    this.#findText();
  }

  /** The code unit at an offset, or LINE_END. */
  at(offset: number): number {
    if (offset < this.#line.length) return this.#line.charCodeAt(offset);
    if (!this.#complete) this.starved = true;
    return LINE_END;
  }

  slice(from: number, to: number): string {
    return this.#line.slice(from, to);
  }

  /** The next character other than a space or tab. */
  get next(): number {
    return this.at(this.textOffset);
  }

  /** Columns of white space before the text. */
  get indent(): number {
    return this.#textColumn - this.column;
  }

  get isBlank(): boolean {
    return this.next === LINE_END;
  }

  /** Offset of the rest of the line, without a partially consumed tab. */
  get rest(): number {
    return this.padding > 0 ? this.offset + 1 : this.offset;
  }

  /** Skips the indentation and then `length` characters. */
  skipText(length: number): void {
    this.column = this.#textColumn + length;
    this.offset = this.textOffset + length;
    this.padding = 0;
    this.#findText();
  }

  /** Skips up to `count` columns of white space. */
  skipColumns(count: number): void {
    let left = count;
    while (left > 0 && this.offset < this.textOffset) {
      const isTab = this.at(this.offset) === TAB;
      const width = isTab ? TAB_STOP - (this.column % TAB_STOP) : 1;
      const step = Math.min(width, left);
      this.column += step;
      left -= step;
      this.padding = width - step;
      if (step === width) this.offset++;
    }
  }

  #findText(): void {
    let offset = this.offset;
    let column = this.column;
    for (let code = this.at(offset); isSpace(code); code = this.at(++offset)) {
      column += code === TAB ? TAB_STOP - (column % TAB_STOP) : 1;
    }
    this.textOffset = offset;
    this.#textColumn = column;
  }
}
