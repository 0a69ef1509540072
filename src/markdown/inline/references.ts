import { decodeNamedCharacterReference } from 'decode-named-character-reference';
import { HASH, isAlphanumeric, SEMICOLON } from '../chars.ts';
import { peek, type Scan } from './scan.ts';
import type { Source } from './source.ts';

const REPLACEMENT = '\ufffd';
const ESCAPE_OR_REFERENCE = /\\([!-/:-@[-`{-~])|&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[0-9a-zA-Z]{1,31});/g;

const REFERENCE = /^(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[0-9a-zA-Z]{1,31})$/;
const MAX_LENGTH = 32;

/** Reads the character reference whose `&` is at `start`; null if there is none. */
export function* scanReference(source: Source, start: number): Scan<{ text: string; end: number } | null> {
  const from = start + 1;
  let at = from;
  while (at - from < MAX_LENGTH) {
    const code = yield* peek(source, at);
    if (!isAlphanumeric(code) && !(code === HASH && at === from)) break;
    at++;
  }
  const name = source.slice(from, at);
  if (!REFERENCE.test(name) || (yield* peek(source, at)) !== SEMICOLON) return null;
  const text = decodeReference(name);
  return text === null ? null : { text, end: at + 1 };
}

/** The text of a character reference, given without `&` and `;` (`amp`, `#38`, `#x26`); null if unknown. */
function decodeReference(name: string): string | null {
  if (name.charAt(0) !== '#') return decodeNamedCharacterReference(name) || null;
  const hex = name.charAt(1) === 'x' || name.charAt(1) === 'X';
  const code = hex ? Number.parseInt(name.slice(2), 16) : Number.parseInt(name.slice(1), 10);
  return isForbidden(code) ? REPLACEMENT : String.fromCodePoint(code);
}

/** Resolves the backslash escapes and character references of a link's address. */
export function decodeString(raw: string): string {
  return raw.replace(ESCAPE_OR_REFERENCE, (whole: string, escaped?: string, name?: string) => {
    if (escaped !== undefined) return escaped;
    return name === undefined ? whole : (decodeReference(name) ?? whole);
  });
}

/** Control characters, surrogates, noncharacters and numbers beyond Unicode. */
function isForbidden(code: number): boolean {
  return (
    code < 0x09 ||
    code === 0x0b ||
    (code > 0x0d && code < 0x20) ||
    (code > 0x7e && code < 0xa0) ||
    (code > 0xd7ff && code < 0xe000) ||
    (code > 0xfdcf && code < 0xfdf0) ||
    (code & 0xffff) >= 0xfffe ||
    code > 0x10ffff
  );
}
