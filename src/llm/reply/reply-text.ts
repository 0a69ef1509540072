const NUL = '\0';
const REPLACEMENT = '\ufffd';
/** Neither white space nor a control or format character, such as a zero-width space. */
const VISIBLE = /[^\s\p{Cc}\p{Cf}]/u;

/**
 * Cleans the pieces of a reply: no split surrogate pair, no lone surrogate, no NUL, and at most a number of bytes of
 * UTF-8.
 */
export class ReplyText {
  /** A high surrogate whose partner has not come yet. */
  #held = '';
  #left: number;
  #hasText = false;
  #truncated = false;

  constructor(maxBytes: number) {
    this.#left = maxBytes;
  }

  /** Whether any text was returned that a reader sees. */
  get hasText(): boolean {
    return this.#hasText;
  }

  /** Whether the limit was reached; later text is dropped. */
  get truncated(): boolean {
    return this.#truncated;
  }

  /** @returns the text that is complete so far */
  take(text: string): string {
    const joined = this.#held + text;
    const split = isHighSurrogate(joined.charCodeAt(joined.length - 1));
    this.#held = split ? joined.slice(-1) : '';
    return this.#measure(split ? joined.slice(0, -1) : joined);
  }

  /** At the end: a lone surrogate becomes U+FFFD. */
  rest(): string {
    const held = this.#held;
    this.#held = '';
    return this.#measure(held);
  }

  #measure(text: string): string {
    if (text === '' || this.#truncated) return '';
    let whole = text.toWellFormed();
    // Some databases and languages end a string at NUL.
    if (whole.includes(NUL)) whole = whole.replaceAll(NUL, REPLACEMENT);
    const bytes = Buffer.byteLength(whole);
    if (bytes > this.#left) {
      this.#truncated = true;
      whole = firstBytes(whole, this.#left);
    }
    this.#left -= bytes;
    if (!this.#hasText) this.#hasText = VISIBLE.test(whole);
    return whole;
  }
}

/** The longest start of a well-formed text that fits, cut between code points. */
function firstBytes(text: string, bytes: number): string {
  // encodeInto stops before the first code point that does not fit.
  return text.slice(0, new TextEncoder().encodeInto(text, new Uint8Array(bytes)).read);
}

function isHighSurrogate(code: number): boolean {
  return code >= 0xd800 && code <= 0xdbff;
}
