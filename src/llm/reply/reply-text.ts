import type { ByteBudget } from './limits.ts';

const NUL = '\0';
const REPLACEMENT = '\ufffd';
/** Neither white space nor a control or format character, such as a zero-width space. */
const VISIBLE = /[^\s\p{Cc}\p{Cf}]/u;

/**
 * Cleans the pieces of one text of a reply. They contain no split surrogate pair, no lone surrogate and no NUL, and are
 * cut at the byte limit.
 */
export class ReplyText {
  readonly #budget: ByteBudget;
  /** A high surrogate whose partner has not come yet. */
  #held = '';
  #hasText = false;
  #isEmpty = true;

  constructor(budget: ByteBudget) {
    this.#budget = budget;
  }

  /** Whether visible text was returned. */
  get hasText(): boolean {
    return this.#hasText;
  }

  /** Whether text was returned, but none that is visible. */
  get isBlank(): boolean {
    return !this.#isEmpty && !this.#hasText;
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
    if (text === '' || this.#budget.isExceeded) return '';
    let whole = cleanText(text);
    const bytes = Buffer.byteLength(whole);
    if (bytes > this.#budget.left) whole = firstBytes(whole, this.#budget.left);
    this.#budget.take(bytes);
    this.#isEmpty = false;
    if (!this.#hasText) this.#hasText = VISIBLE.test(whole);
    return whole;
  }
}

/** Replaces lone surrogates, and NUL, which ends a string in some databases and languages. */
export function cleanText(text: string): string {
  const whole = text.toWellFormed();
  return whole.includes(NUL) ? whole.replaceAll(NUL, REPLACEMENT) : whole;
}

/** The longest start of a well-formed text that fits, cut between code points. */
function firstBytes(text: string, bytes: number): string {
  // encodeInto stops before the first code point that does not fit.
  return text.slice(0, new TextEncoder().encodeInto(text, new Uint8Array(bytes)).read);
}

function isHighSurrogate(code: number): boolean {
  return code >= 0xd800 && code <= 0xdbff;
}
