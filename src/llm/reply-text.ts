const NUL = '\0';
const REPLACEMENT = '\ufffd';

/**
 * Makes handable text of what a model says in pieces: no split pair, no lone surrogate, no NUL, not more than a number
 * of bytes of UTF-8.
 */
export class ReplyText {
  /** A high surrogate whose partner has not come yet. */
  #held = '';
  #left: number;
  #said = false;
  #truncated = false;

  constructor(maxBytes: number) {
    this.#left = maxBytes;
  }

  /** Whether anything was handed on. */
  get said(): boolean {
    return this.#said;
  }

  /** Whether the bytes were not enough; nothing more is taken then. */
  get truncated(): boolean {
    return this.#truncated;
  }

  /** @returns what can be handed on of what came so far; empty when nothing can */
  take(text: string): string {
    const joined = this.#held + text;
    const split = isHighSurrogate(joined.charCodeAt(joined.length - 1));
    this.#held = split ? joined.slice(-1) : '';
    return this.#measure(split ? joined.slice(0, -1) : joined);
  }

  /** The end: a surrogate that stayed alone becomes U+FFFD. */
  rest(): string {
    const held = this.#held;
    this.#held = '';
    return this.#measure(held);
  }

  #measure(text: string): string {
    if (text === '' || this.#truncated) return '';
    let whole = text.toWellFormed();
    // Databases and languages end a text there.
    if (whole.includes(NUL)) whole = whole.replaceAll(NUL, REPLACEMENT);
    const bytes = Buffer.byteLength(whole);
    if (bytes > this.#left) {
      this.#truncated = true;
      whole = firstBytes(whole, this.#left);
    }
    this.#left -= bytes;
    if (whole !== '') this.#said = true;
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
