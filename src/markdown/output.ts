/**
 * Puts the text of the blocks together: separates them as the source does (a line feed, or one blank line where
 * lines without any text lie between), indents list items, and holds line feeds back until text follows.
 */
export class Output {
  #text = '';
  #isEmpty = true;
  /** Whether lines without text came after the last text. */
  #gap = false;
  /** Whether the current block has no text yet. */
  #fresh = true;
  #lineFeeds = 0;
  #indent = '';
  /** Markers of list items that no text follows yet, with what separates them from the text before. */
  #markers = '';
  /** Lines of the source that are over, and how many were when the last item began. */
  #lines = 0;
  #itemLine = 0;

  /** A block begins whose lines are indented like this. */
  begin(indent: string): void {
    this.#indent = indent;
    this.#fresh = true;
  }

  /** The block is over. */
  finish(): void {
    if (this.#fresh || this.#lineFeeds > 0) this.#gap = true;
    this.#lineFeeds = 0;
    this.#fresh = true;
  }

  /** A line without text, outside of a block. */
  blank(): void {
    this.#gap = true;
  }

  /** A list item begins; its marker is `- ` or `1. `. */
  item(indent: string, marker: string): void {
    this.#itemLine = this.#lines;
    this.#markers += this.#markers === '' ? this.#separator() + indent + marker : marker;
  }

  /** A list item ends; when it was empty, its marker stands alone. */
  endItem(): void {
    if (this.#markers === '') return;
    this.#text += this.#markers.trimEnd();
    this.#markers = '';
    this.#isEmpty = false;
    this.#gap = this.#lines - this.#itemLine > 1;
  }

  /** A line of the source is over. */
  endLine(): void {
    this.#lines++;
  }

  /** A new line inside the block. */
  newLine(): void {
    if (this.#fresh) this.#gap = true;
    else this.#lineFeeds++;
  }

  /** Text of the block; a line feed in it is a new line. */
  write(text: string): void {
    if (!text.includes('\n')) {
      this.#append(text);
      return;
    }
    text.split('\n').forEach((line, index) => {
      if (index > 0) this.newLine();
      this.#append(line);
    });
  }

  /** What has been written since the last call. */
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
