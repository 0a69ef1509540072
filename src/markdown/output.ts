import { NEWLINE } from './chars.ts';

/**
 * Joins the text of the blocks. Blocks are separated by a line feed, or by one blank line if the source has lines
 * without text between them. List items are indented. Line feeds are held until text follows.
 */
export class Output {
  #text = '';
  #isEmpty = true;
  /** Whether lines without text follow the last text. */
  #gap = false;
  /** Whether the current block is still without text. */
  #fresh = true;
  #lineFeeds = 0;
  #indent = '';
  /** Separator and markers of list items that are still without text. */
  #markers = '';
  /** Source lines read so far. */
  #lines = 0;
  /** Source line of the last list item. */
  #itemLine = 0;

  /** Starts a block whose lines have this indentation. */
  begin(indent: string): void {
    this.#indent = indent;
    this.#fresh = true;
  }

  /** Ends the block. */
  finish(): void {
    if (this.#fresh || this.#lineFeeds > 0) this.#gap = true;
    this.#lineFeeds = 0;
    this.#fresh = true;
  }

  /** Notes a line without text outside a block. */
  blank(): void {
    this.#gap = true;
  }

  /** Starts a list item; its marker is `- ` or `1. `. */
  item(indent: string, marker: string): void {
    this.#itemLine = this.#lines;
    this.#markers += this.#markers === '' ? this.#separator() + indent + marker : marker;
  }

  /** Ends a list item; an empty one is its marker alone. */
  endItem(): void {
    if (this.#markers === '') return;
    this.#text += this.#markers.trimEnd();
    this.#markers = '';
    this.#isEmpty = false;
    this.#gap = this.#lines - this.#itemLine > 1;
  }

  /** Ends a source line. */
  endLine(): void {
    this.#lines++;
  }

  /** Starts a new line inside the block. */
  newLine(): void {
    if (this.#fresh) this.#gap = true;
    else this.#lineFeeds++;
  }

  /** Adds text to the block; a line feed starts a new line. */
  write(text: string): void {
    if (!text.includes('\n')) {
      this.#append(text);
      return;
    }
    let from = 0;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', from)) {
      this.#append(text.slice(from, end));
      for (from = end; text.charCodeAt(from) === NEWLINE; from++) this.newLine();
    }
    this.#append(text.slice(from));
  }

  /** Returns the text written since the last call. */
  take(): string {
    const text = this.#text;
    this.#text = '';
    return text;
  }

  #append(text: string): void {
    if (text === '') return;
    if (this.#fresh) this.#lead();
    else if (this.#lineFeeds > 0) {
      this.#text += '\n'.repeat(this.#lineFeeds) + this.#indent;
      this.#lineFeeds = 0;
    }
    this.#text += text;
  }

  #lead(): void {
    this.#text += this.#markers === '' ? this.#separator() + this.#indent : this.#markers;
    this.#markers = '';
    this.#isEmpty = false;
    this.#gap = false;
    this.#fresh = false;
  }

  #separator(): string {
    if (this.#isEmpty) return '';
    return this.#gap ? '\n\n' : '\n';
  }
}
