import { decodeNamedCharacterReference } from 'decode-named-character-reference';
import type { Decoded } from './stream.ts';

/** Can stand between characters that are adjacent when rendered: `**a**b`, `a[b](u)`, `a\-b`. */
export const MARKS = '*_~`[\\';
/** Skipped even for words with marks: `f\*ck` is rendered as `f*ck`. */
export const ESCAPE = '\\';

/**
 * Replaces one character. A letter number (Nl), because a star would be a mark, and `**` next to punctuation may not
 * end or begin emphasis.
 */
const MASK = '〇';

const AMPERSAND = 0x26;
/** The longest named reference has 31 characters. */
const REFERENCE = /&(?:#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6})|([0-9A-Za-z]{1,31}));/y;
const LONGEST = 33;
const UNFINISHED = /&(?:#(?:[0-9]{0,7}|[xX][0-9a-fA-F]{0,6})|[0-9A-Za-z]{0,31})$/;
const UNIT = /&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[0-9A-Za-z]{1,31});|[*_~`[]|./gsu;
const LITERAL_UNIT = /&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[0-9A-Za-z]{1,31});|./gsu;

/** Decodes the character reference at `at`, if there is one. */
export function decodeReference(text: string, at: number, codePoint: number): Decoded | null {
  if (codePoint !== AMPERSAND) return null;
  REFERENCE.lastIndex = at;
  const match = REFERENCE.exec(text);
  if (!match) return null;
  const decoded = decode(match[1], match[2], match[3]);
  return decoded === null ? null : { text: decoded, end: at + match[0].length };
}

function decode(decimal?: string, hex?: string, name?: string): string | null {
  if (name !== undefined) return decodeNamedCharacterReference(name) || null;
  const code = decimal === undefined ? Number.parseInt(hex ?? '', 16) : Number.parseInt(decimal, 10);
  return code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) ? null : String.fromCodePoint(code);
}

/** Start of an incomplete character reference at the end of the text, or the text's length. */
export function beforeReference(text: string): number {
  const at = text.lastIndexOf('&');
  if (at < 0 || text.length - at > LONGEST) return text.length;
  return UNFINISHED.test(text.slice(at)) ? at : text.length;
}

/** Masks visible characters. Marks stay, because they pair with marks outside; backslashes are removed. */
export function maskMarkdown(part: string, literal: boolean): string {
  return part.replace(literal ? LITERAL_UNIT : UNIT, (unit) => {
    if (unit === ESCAPE) return '';
    return !literal && unit.length === 1 && MARKS.includes(unit) ? unit : MASK;
  });
}
