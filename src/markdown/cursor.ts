import { isSpace, TAB } from './chars.ts';

/** What a line looks like past its last character. */
export const LINE_END = -1;

const TAB_STOP = 4;

/**
 * A place in the start of a line that has come so far. Looking past what has come marks the cursor as `starved`:
 * what was concluded then holds only if the line is complete.
 */
export class Cursor {
  readonly #line: string;
  readonly #complete: boolean;
  starved = false;
  offset = 0;
  column = 0;
  /** Columns of a tab passed in part that are left: they count as spaces before what follows. */
  padding = 0;
  /** The next character that is no space or tab. */
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

  /** The next character that is no space or tab. */
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

  /** Where what is left of the line starts, without a tab passed in part. */
  get rest(): number {
    return this.padding > 0 ? this.offset + 1 : this.offset;
  }

  /** Passes the indentation and then some characters. */
  passText(length: number): void {
    this.column = this.#textColumn + length;
    this.offset = this.textOffset + length;
    this.padding = 0;
    this.#findText();
  }

  /** Passes up to this many columns of white space. */
  passColumns(count: number): void {
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
