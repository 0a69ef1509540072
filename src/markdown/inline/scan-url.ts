import {
  AMPERSAND,
  BRACKET_CLOSE,
  BRACKET_OPEN,
  isAlpha,
  isAlphanumeric,
  LESS,
  PAREN_CLOSE,
  PAREN_OPEN,
  SEMICOLON,
  SPACE,
} from '../chars.ts';
import { peek, type Scan, skip } from './scan.ts';
import type { Source } from './source.ts';

/** Punctuation that belongs to an address only if more of the address follows. */
const TRAIL = '!"\'),.:;?_~*';
const DELETE = 0x7f;

/** Whether the colon ends `http:` or `https:` that is not part of a longer word. */
export function isProtocol(source: Source, colon: number): boolean {
  const start = endsWith(source, colon, 'https')
    ? colon - 5
    : endsWith(source, colon, 'http')
      ? colon - 4
      : -1;
  return start >= 0 && !isAlpha(source.before(start));
}

/** Whether the dot ends `www.` at the start of a word. */
export function isWww(source: Source, dot: number): boolean {
  if (!endsWith(source, dot, 'www')) return false;
  const before = source.before(dot - 3);
  return before <= SPACE || '(*_[]~'.includes(String.fromCharCode(before));
}

function endsWith(source: Source, end: number, word: string): boolean {
  if (end < word.length) return false;
  for (let i = 0; i < word.length; i++) {
    if ((source.at(end - word.length + i) | 0x20) !== word.charCodeAt(i)) return false;
  }
  return true;
}

/**
 * Reads a bare address from `start` on and calls `settle` with the position up to which it is certain. The address
 * ends before a space, `<` or a character outside ASCII, because Chinese text follows without a space. Punctuation
 * at its end does not belong to it.
 */
export function* scanUrl(source: Source, start: number, settle: (upTo: number) => void): Scan<void> {
  if (!isAlphanumeric(yield* peek(source, start))) return;
  let parens = 0;
  let inside = start;
  for (let at = start; ; at++) {
    if (at >= source.end) settle(at);
    const code = yield* peek(source, at);
    if (!isVisible(code)) return settle(at);
    const balanced = code === PAREN_CLOSE && parens > 0;
    if (at >= inside && !balanced && (isTrail(code) || code === AMPERSAND || code === BRACKET_CLOSE)) {
      settle(at);
      inside = yield* skipTrail(source, at);
      if (inside < 0) return;
    }
    if (code === PAREN_OPEN) parens++;
    if (code === PAREN_CLOSE) parens--;
  }
}

function isTrail(code: number): boolean {
  return TRAIL.includes(String.fromCharCode(code));
}

/** Whether an address may contain this character. */
function isVisible(code: number): boolean {
  return code > SPACE && code < DELETE && code !== LESS;
}

/** The position after punctuation and character references; -1 if the address ends before them. */
function* skipTrail(source: Source, from: number): Scan<number> {
  for (let at = from; ; ) {
    at = yield* skip(source, at, isTrail);
    const code = yield* peek(source, at);
    if (code === BRACKET_CLOSE) {
      const after = yield* peek(source, ++at);
      if (!isVisible(after) || after === PAREN_OPEN || after === BRACKET_OPEN) return -1;
    } else if (code === AMPERSAND) {
      const end = yield* skip(source, at + 1, isAlpha);
      if (end === at + 1 || (yield* peek(source, end)) !== SEMICOLON) return end;
      at = end + 1;
    } else {
      return isVisible(code) ? at : -1;
    }
  }
}
