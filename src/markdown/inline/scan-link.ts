import {
  APOSTROPHE,
  BACKSLASH,
  GREATER,
  isBlank,
  isControl,
  LESS,
  NEWLINE,
  PAREN_CLOSE,
  PAREN_OPEN,
  QUOTE,
  SPACE,
} from '../chars.ts';
import { type Absent, peek, type Scan, skip } from './scan.ts';
import { END, MORE, type Source } from './source.ts';

/** The part of a link after its text. */
export interface Resource {
  readonly end: number;
  /** As written, without angle brackets. */
  readonly address: string;
}

const MAX_PARENS = 32;

/** The `(address "title")` whose parenthesis is at `start`; null if there is none. */
export function* scanResource(source: Source, start: number, absent: Absent): Scan<Resource | null> {
  const from = yield* skip(source, start + 1, isBlank);
  const first = yield* peek(source, from);
  if (first === PAREN_CLOSE) return { end: from + 1, address: '' };
  const angled = first === LESS;
  const to = yield* angled ? scanAngled(source, from + 1) : scanAddress(source, from);
  if (to < 0) return null;
  const address = angled ? source.slice(from + 1, to) : source.slice(from, to);
  const after = angled ? to + 1 : to;
  let end = yield* skip(source, after, isBlank);
  if (end > after) {
    const titleEnd = yield* scanTitle(source, end, absent);
    if (titleEnd < 0) return null;
    if (titleEnd > end) end = yield* skip(source, titleEnd, isBlank);
  }
  return (yield* peek(source, end)) === PAREN_CLOSE ? { end: end + 1, address } : null;
}

/** The position of the `>` that closes an address; -1 if a line ending or `<` comes first. */
function* scanAngled(source: Source, from: number): Scan<number> {
  for (let at = from; ; ) {
    const code = yield* peek(source, at);
    if (code === GREATER) return at;
    if (code === END || code === LESS || code === NEWLINE) return -1;
    if (code === BACKSLASH) {
      const next = yield* peek(source, at + 1);
      at += next === LESS || next === GREATER || next === BACKSLASH ? 2 : 1;
    } else {
      at++;
    }
  }
}

/** The position after an address without spaces and with balanced parentheses; -1 if there is none. */
function* scanAddress(source: Source, from: number): Scan<number> {
  let open = 0;
  for (let at = from; ; ) {
    const code = source.at(at);
    if (code === MORE) {
      yield;
      continue;
    }
    if (code === PAREN_OPEN && ++open > MAX_PARENS) return -1;
    if (code === PAREN_CLOSE && --open < 0) return at;
    if (code === END || code === SPACE || isControl(code)) {
      return open === 0 && at > from && (code === END || isBlank(code)) ? at : -1;
    }
    if (code === BACKSLASH) {
      const next = yield* peek(source, at + 1);
      at += next === PAREN_OPEN || next === PAREN_CLOSE || next === BACKSLASH ? 2 : 1;
    } else {
      at++;
    }
  }
}

/** The position after a title; `start` if there is no title, -1 if the title has no end. */
function* scanTitle(source: Source, start: number, absent: Absent): Scan<number> {
  const opener = yield* peek(source, start);
  if (opener !== QUOTE && opener !== APOSTROPHE && opener !== PAREN_OPEN) return start;
  const closer = opener === PAREN_OPEN ? PAREN_CLOSE : opener;
  const key = `title ${closer}`;
  if (absent.has(key)) return -1;
  for (let at = start + 1; ; ) {
    const code = source.at(at);
    if (code === MORE) {
      yield;
      continue;
    }
    if (code === closer) return at + 1;
    if (code === END) break;
    if (code === BACKSLASH) {
      const next = yield* peek(source, at + 1);
      at += next === closer || next === BACKSLASH ? 2 : 1;
    } else {
      at++;
    }
  }
  absent.add(key);
  return -1;
}
