import { HASH, isSpace } from '../chars.ts';
import { Inline, MAX_HELD } from '../inline/inline.ts';
import type { Output } from '../output.ts';
import type { Leaf } from './leaf.ts';
import type { OpenLeaf } from './line-plan.ts';

/** A heading of one line. White space and `#` are held up to MAX_HELD, because they are dropped at the end of the line. */
export class Heading implements Leaf {
  readonly state: OpenLeaf = { kind: 'none' };
  readonly #output: Output;
  readonly #inline: Inline;
  /** Held: white space, then marks, then white space. */
  #before = '';
  #marks = '';
  #after = '';
  #started = false;

  constructor(output: Output) {
    this.#output = output;
    this.#inline = new Inline((text) => output.write(text));
  }

  startLine(): void {}

  text(piece: string): void {
    let start = 0;
    for (let at = 0; at < piece.length; at++) {
      const code = piece.charCodeAt(at);
      if (isSpace(code) || (code === HASH && (this.#isHolding || !this.#started))) {
        this.#feed(piece.slice(start, at));
        this.#hold(piece.charAt(at), code === HASH);
        if (this.#before.length + this.#marks.length + this.#after.length >= MAX_HELD) this.#feedHeld();
        start = at + 1;
      } else {
        this.#feedHeld();
        this.#started = true;
      }
    }
    this.#feed(piece.slice(start));
  }

  endLine(): void {}

  close(): void {
    this.#inline.end();
    this.#output.finish();
  }

  get #isHolding(): boolean {
    return this.#before !== '' || this.#marks !== '';
  }

  #hold(char: string, isMark: boolean): void {
    if (isMark) {
      if (this.#after !== '') {
        // The held marks are not at the end of the line, so they are text.
        this.#feed((this.#started ? this.#before : '') + this.#marks);
        this.#before = this.#after;
        this.#marks = '';
        this.#after = '';
        this.#started = true;
      }
      this.#marks += char;
    } else if (this.#marks === '') {
      this.#before += char;
    } else {
      this.#after += char;
    }
  }

  #feedHeld(): void {
    if (!this.#isHolding) return;
    this.#feed((this.#started ? this.#before : '') + this.#marks + this.#after);
    this.#before = '';
    this.#marks = '';
    this.#after = '';
  }

  #feed(text: string): void {
    if (text !== '') this.#inline.feed(text);
  }
}
