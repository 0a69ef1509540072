import { isPlain } from '../chars.ts';
import { Inline, MAX_HELD } from '../inline/inline.ts';
import type { Output } from '../output.ts';
import type { Leaf } from './leaf.ts';
import type { OpenLeaf } from './line-plan.ts';
import { rowText, splitRow, Table } from './table.ts';

/**
 * A paragraph. A line with a pipe may be the header of a table, which depends on the next line, so it is held from
 * the pipe on. A line that begins inside an open span is held whole, because a header ends the spans before it. A line
 * of MAX_HELD characters is no header.
 */
export class Paragraph implements Leaf {
  readonly #output: Output;
  readonly #inline: Inline;
  /** The part of the current line that went to the inline parser. */
  #read = '';
  /** The held rest of the line; null if nothing is held. */
  #held: string | null = null;
  /** Whether the line feed before the current line is held too. */
  #owesLineFeed = false;
  #lines = 0;
  #mayBeHeader = true;
  #cells = 0;

  constructor(output: Output) {
    this.#output = output;
    this.#inline = new Inline((text) => output.write(text));
  }

  get state(): OpenLeaf {
    return { kind: 'paragraph', cells: this.#cells };
  }

  startLine(_padding: number, lazy: boolean): void {
    this.#release();
    this.#mayBeHeader = !lazy;
    if (this.#lines++ > 0) {
      // A backslash before a line ending is a hard break, but text at the end of a paragraph.
      this.#owesLineFeed = this.#mayBeHeader && this.#read.endsWith('\\');
      if (!this.#owesLineFeed) this.#inline.startLine();
      if (this.#mayBeHeader && (this.#owesLineFeed || !this.#inline.settled)) this.#held = '';
    }
    this.#read = '';
  }

  text(piece: string): void {
    const room = MAX_HELD - this.#read.length - (this.#held?.length ?? 0);
    if (!this.#mayBeHeader || piece.length < room) {
      this.#text(piece);
      return;
    }
    this.#text(piece.slice(0, room));
    this.#mayBeHeader = false;
    this.#release();
    if (piece.length > room) this.#text(piece.slice(room));
  }

  #text(piece: string): void {
    if (this.#held !== null) {
      this.#held += piece;
      return;
    }
    const pipe = this.#mayBeHeader ? piece.indexOf('|') : -1;
    const sure = pipe < 0 ? piece : piece.slice(0, pipe);
    if (pipe >= 0) this.#held = piece.slice(pipe);
    if (sure === '') return;
    if (this.#mayBeHeader) this.#read += sure;
    this.#inline.feed(sure);
  }

  /** Fast path: adds plain text in the middle of a line. Returns false if the piece needs parsing. */
  tryPlain(piece: string): boolean {
    if (this.#held !== null || !this.#inline.idle || !this.#inline.hasRoom(piece.length)) return false;
    if (this.#mayBeHeader && this.#read.length + piece.length >= MAX_HELD) return false;
    if (!isPlain(piece)) return false;
    if (this.#mayBeHeader) this.#read += piece;
    this.#inline.feedPlain(piece);
    return true;
  }

  endLine(): void {
    if (this.#held === null) return;
    const line = this.#read + this.#held;
    if (line.includes('|')) this.#cells = splitRow(line).length;
    else this.#release();
  }

  /** The held line is the header of a table; the paragraph ends before it. */
  toTable(): Leaf {
    const header = rowText(splitRow(this.#read + (this.#held ?? '')));
    let sent = 0;
    if (this.#read === '') {
      this.#inline.end();
      if (this.#lines > 1) this.#output.newLine();
    } else {
      sent = Math.max(this.#inline.emitted, 0);
      if (this.#inline.emitted < 0) this.#output.newLine();
    }
    this.#output.write(header.slice(sent));
    return new Table(this.#output);
  }

  close(): void {
    this.#release();
    this.#inline.end();
    this.#output.finish();
  }

  /** Feeds the held text to the paragraph. */
  #release(): void {
    if (this.#held === null) return;
    if (this.#owesLineFeed) this.#inline.startLine();
    if (this.#held !== '') this.#inline.feed(this.#held);
    this.#read += this.#held;
    this.#held = null;
    this.#owesLineFeed = false;
    this.#cells = 0;
  }
}
