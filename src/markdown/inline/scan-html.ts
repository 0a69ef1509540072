import {
  APOSTROPHE,
  AT,
  BACKTICK,
  BANG,
  BRACKET_OPEN,
  COLON,
  DASH,
  DOT,
  EQUALS,
  GREATER,
  isAlpha,
  isAlphanumeric,
  isBlank,
  isControl,
  LESS,
  PLUS,
  QUESTION,
  QUOTE,
  SLASH,
  SPACE,
  UNDERSCORE,
} from '../chars.ts';
import { type Absent, find, peek, type Scan, skip } from './scan.ts';
import { END, type Source } from './source.ts';

/** The position after the inline HTML whose `<` is at `start`; -1 if there is none. */
export function* scanHtml(source: Source, start: number, absent: Absent): Scan<number> {
  const code = yield* peek(source, start + 1);
  if (code === QUESTION) return yield* find(source, start + 2, '?>', absent);
  if (code === BANG) return yield* scanDeclaration(source, start, absent);
  if (code === SLASH) return yield* scanClosingTag(source, start + 2);
  return isAlpha(code) ? yield* scanOpeningTag(source, start + 2) : -1;
}

function* scanDeclaration(source: Source, start: number, absent: Absent): Scan<number> {
  const code = yield* peek(source, start + 2);
  if (isAlpha(code)) return yield* find(source, start + 3, '>', absent);
  if (code === DASH) {
    if ((yield* peek(source, start + 3)) !== DASH) return -1;
    return yield* find(source, start + 2, '-->', absent);
  }
  if (code !== BRACKET_OPEN) return -1;
  const opening = 'CDATA[';
  for (let i = 0; i < opening.length; i++) {
    if ((yield* peek(source, start + 3 + i)) !== opening.charCodeAt(i)) return -1;
  }
  return yield* find(source, start + 9, ']]>', absent);
}

function* scanClosingTag(source: Source, at: number): Scan<number> {
  if (!isAlpha(yield* peek(source, at))) return -1;
  const nameEnd = yield* skip(source, at, isTagName);
  const end = yield* skip(source, nameEnd, isBlank);
  return (yield* peek(source, end)) === GREATER ? end + 1 : -1;
}

function* scanOpeningTag(source: Source, at: number): Scan<number> {
  let position = yield* skip(source, at, isTagName);
  for (;;) {
    const next = yield* skip(source, position, isBlank);
    const code = yield* peek(source, next);
    if (code === GREATER) return next + 1;
    if (code === SLASH) return (yield* peek(source, next + 1)) === GREATER ? next + 2 : -1;
    if (next === position || !isAttributeStart(code)) return -1;
    position = yield* scanAttribute(source, next);
    if (position < 0) return -1;
  }
}

function* scanAttribute(source: Source, at: number): Scan<number> {
  const nameEnd = yield* skip(source, at, isAttributeName);
  const equals = yield* skip(source, nameEnd, isBlank);
  if ((yield* peek(source, equals)) !== EQUALS) return nameEnd;
  const value = yield* skip(source, equals + 1, isBlank);
  const mark = yield* peek(source, value);
  if (mark === QUOTE || mark === APOSTROPHE) {
    const end = yield* skip(source, value + 1, (code) => code !== mark);
    return (yield* peek(source, end)) === END ? -1 : end + 1;
  }
  const end = yield* skip(source, value, isUnquotedValue);
  return end === value ? -1 : end;
}

/** The position after the autolink (`<https://…>`, `<a@b.c>`) whose `<` is at `start`; -1 if there is none. */
export function* scanAutolink(source: Source, start: number): Scan<number> {
  const schemeEnd = yield* skip(source, start + 1, isScheme);
  const length = schemeEnd - start - 1;
  if (length >= 2 && length <= 32 && isAlpha(source.at(start + 1))) {
    if ((yield* peek(source, schemeEnd)) === COLON) {
      const end = yield* skip(source, schemeEnd + 1, isAddress);
      return (yield* peek(source, end)) === GREATER ? end + 1 : -1;
    }
  }
  const at = yield* skip(source, schemeEnd, isMailbox);
  if (at === start + 1 || (yield* peek(source, at)) !== AT) return -1;
  return yield* scanMailDomain(source, at + 1);
}

/** Labels of 1 to 63 letters, digits and inner dashes, joined by dots, up to a `>`. */
function* scanMailDomain(source: Source, at: number): Scan<number> {
  for (let label = at; ; ) {
    const end = yield* skip(source, label, isTagName);
    const isLabel = end > label && end - label <= 63;
    if (!isLabel || source.at(label) === DASH || source.at(end - 1) === DASH) return -1;
    const code = yield* peek(source, end);
    if (code === GREATER) return end + 1;
    if (code !== DOT) return -1;
    label = end + 1;
  }
}

function isTagName(code: number): boolean {
  return code === DASH || isAlphanumeric(code);
}

function isAttributeStart(code: number): boolean {
  return code === COLON || code === UNDERSCORE || isAlpha(code);
}

function isAttributeName(code: number): boolean {
  return isAttributeStart(code) || isTagName(code) || code === DOT;
}

function isUnquotedValue(code: number): boolean {
  return (
    !isBlank(code) &&
    code !== QUOTE &&
    code !== APOSTROPHE &&
    code !== EQUALS &&
    code !== LESS &&
    code !== GREATER &&
    code !== BACKTICK
  );
}

function isScheme(code: number): boolean {
  return code === PLUS || code === DOT || isTagName(code);
}

function isAddress(code: number): boolean {
  return code !== SPACE && code !== LESS && code !== GREATER && !isControl(code);
}

const MAILBOX_PUNCTUATION = "!#$%&'*+-./=?^_`{|}~";

function isMailbox(code: number): boolean {
  return isAlphanumeric(code) || (code > SPACE && MAILBOX_PUNCTUATION.includes(String.fromCharCode(code)));
}
