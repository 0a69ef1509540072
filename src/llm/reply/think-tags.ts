const OPEN = '<think>';
const CLOSE = '</think>';
/** At most so much white space is held back. */
const MAX_BLANK = 1024;

/** Separates the reasoning in `<think>…</think>` at the start of a text from the text, however its pieces are cut. */
export class ThinkTags {
  readonly #onReasoning: (text: string) => void;
  #state: 'start' | 'inside' | 'after' | 'done' = 'start';
  /** Text that may be the beginning of a tag, or white space before one. */
  #held = '';
  /** White space at the start of the reasoning, which is dropped if nothing follows it. Undefined after other text. */
  #blank: string | undefined = '';

  constructor(onReasoning: (text: string) => void) {
    this.#onReasoning = onReasoning;
  }

  /** @returns the text without its reasoning, as far as that is known */
  push(piece: string): string {
    if (this.#state === 'done') return piece;
    let text = this.#held + piece;
    this.#held = '';
    if (this.#state === 'start') {
      const trimmed = text.trimStart();
      if (!trimmed.startsWith(OPEN)) return this.#beforeTag(text, trimmed);
      this.#state = 'inside';
      text = trimmed.slice(OPEN.length);
    }
    return this.#afterTag(this.#state === 'inside' ? this.#inside(text) : text);
  }

  /** The text that was held back, after the last piece. */
  end(): string {
    const held = this.#held;
    const state = this.#state;
    this.#held = '';
    this.#state = 'done';
    if (state === 'start') return held;
    if (held !== '') this.#reason(held);
    return '';
  }

  #beforeTag(text: string, trimmed: string): string {
    if (OPEN.startsWith(trimmed) && text.length < MAX_BLANK) {
      this.#held = text;
      return '';
    }
    this.#state = 'done';
    return text;
  }

  /** @returns the text after the closing tag */
  #inside(text: string): string {
    const end = text.indexOf(CLOSE);
    if (end === -1) {
      const held = heldLength(text);
      this.#held = text.slice(text.length - held);
      this.#reason(text.slice(0, text.length - held));
      return '';
    }
    this.#reason(text.slice(0, end));
    this.#state = 'after';
    return text.slice(end + CLOSE.length);
  }

  #afterTag(text: string): string {
    if (this.#state !== 'after') return text;
    const content = text.trimStart();
    if (content !== '') this.#state = 'done';
    return content;
  }

  #reason(text: string): void {
    if (this.#blank === undefined) {
      if (text !== '') this.#onReasoning(text);
      return;
    }
    this.#blank += text;
    if (this.#blank.length < MAX_BLANK && this.#blank.trimStart() === '') return;
    this.#onReasoning(this.#blank);
    this.#blank = undefined;
  }
}

/** The length of the longest end of the text that may become the closing tag. */
function heldLength(text: string): number {
  let length = Math.min(text.length, CLOSE.length - 1);
  while (!CLOSE.startsWith(text.slice(text.length - length))) length -= 1;
  return length;
}
