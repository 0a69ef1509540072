import { htmlBlockNames, htmlRawNames } from 'micromark-util-html-tag-name';
import {
  APOSTROPHE,
  BACKSLASH,
  BACKTICK,
  BANG,
  BRACKET_CLOSE,
  BRACKET_OPEN,
  COLON,
  DASH,
  DOLLAR,
  DOT,
  EQUALS,
  GREATER,
  HASH,
  isAlpha,
  isAlphanumeric,
  isDigit,
  isSpace,
  LESS,
  PAREN_CLOSE,
  PIPE,
  PLUS,
  QUESTION,
  QUOTE,
  SLASH,
  STAR,
  TILDE,
  UNDERSCORE,
} from '../chars.ts';
import { type Cursor, LINE_END } from '../cursor.ts';

export interface Fence {
  readonly mark: number;
  readonly length: number;
  readonly indent: number;
}

export interface ItemStart {
  /** `- `, or the number as written and a space. */
  readonly marker: string;
  /** Columns from the container's start to the item's text. */
  readonly width: number;
}

/** The end of an HTML block: a blank line, or the line that contains one of the strings (lower case). */
export type HtmlEnd = 'blank' | readonly string[];

const MAX_DIGITS = 9;
const MAX_LEVEL = 6;
const MIN_FENCE = 3;
const MAX_GAP = 4;

export function isThematicBreak(cursor: Cursor): boolean {
  const mark = cursor.next;
  if (mark !== STAR && mark !== DASH && mark !== UNDERSCORE) return false;
  let count = 0;
  for (let at = cursor.textOffset; ; at++) {
    const code = cursor.at(at);
    if (code === LINE_END) return count >= 3;
    if (code === mark) count++;
    else if (!isSpace(code)) return false;
  }
}

export function isSetextUnderline(cursor: Cursor): boolean {
  const mark = cursor.next;
  if (mark !== EQUALS && mark !== DASH) return false;
  return endsAfter(cursor, skipRun(cursor, cursor.textOffset, mark));
}

/** The number of `#` of a heading; 0 if the line is not a heading. */
export function headingLevel(cursor: Cursor): number {
  const end = skipRun(cursor, cursor.textOffset, HASH);
  const level = end - cursor.textOffset;
  if (level === 0 || level > MAX_LEVEL) return 0;
  const after = cursor.at(end);
  return after === LINE_END || isSpace(after) ? level : 0;
}

export function openingFence(cursor: Cursor): Fence | null {
  const mark = cursor.next;
  if (mark !== BACKTICK && mark !== TILDE) return null;
  const end = skipRun(cursor, cursor.textOffset, mark);
  const length = end - cursor.textOffset;
  if (length < MIN_FENCE) return null;
  if (mark === BACKTICK) {
    for (let at = end, code = cursor.at(at); code !== LINE_END; code = cursor.at(++at)) {
      if (code === BACKTICK) return null;
    }
  }
  return { mark, length, indent: cursor.indent };
}

export function isClosingFence(cursor: Cursor, fence: Fence): boolean {
  if (cursor.indent >= MAX_GAP || cursor.next !== fence.mark) return false;
  const end = skipRun(cursor, cursor.textOffset, fence.mark);
  return end - cursor.textOffset >= fence.length && endsAfter(cursor, end);
}

/** Skips the marker of a list item. A paragraph is interrupted only by items with text, and by `1.` among numbers. */
export function itemStart(cursor: Cursor, interrupts: boolean): ItemStart | null {
  const first = cursor.next;
  const start = cursor.textOffset;
  let end = start;
  if (isDigit(first)) {
    while (end - start <= MAX_DIGITS && isDigit(cursor.at(end))) end++;
    const after = cursor.at(end);
    if (end - start > MAX_DIGITS || (after !== DOT && after !== PAREN_CLOSE)) return null;
    if (interrupts && cursor.slice(start, end) !== '1') return null;
  } else if (first !== DASH && first !== PLUS && first !== STAR) {
    return null;
  }
  const after = cursor.at(++end);
  if (after !== LINE_END && !isSpace(after)) return null;
  if (interrupts && endsAfter(cursor, end)) return null;
  const marker = isDigit(first) ? `${cursor.slice(start, end)} ` : '- ';
  const indent = cursor.indent;
  cursor.skipText(end - start);
  const gap = cursor.isBlank || cursor.indent > MAX_GAP ? 1 : cursor.indent;
  cursor.skipColumns(gap);
  return { marker, width: indent + (end - start) + gap };
}

/** Whether the line is a delimiter row such as `| --- | :-: |` with this many cells. */
export function isDelimiterRow(cursor: Cursor, cells: number): boolean {
  let at = cursor.textOffset;
  let count = 0;
  let marked = cursor.at(at) === PIPE;
  if (marked) at = skipSpace(cursor, at + 1);
  while (cursor.at(at) !== LINE_END) {
    if (cursor.at(at) === COLON) {
      marked = true;
      at++;
    }
    const end = skipRun(cursor, at, DASH);
    if (end === at) return false;
    at = end;
    if (cursor.at(at) === COLON) {
      marked = true;
      at++;
    }
    count++;
    at = skipSpace(cursor, at);
    if (cursor.at(at) === LINE_END) break;
    if (cursor.at(at) !== PIPE) return false;
    marked = true;
    at = skipSpace(cursor, at + 1);
  }
  return marked && count === cells;
}

const RAW_ENDS = htmlRawNames.map((name) => `</${name}>`);

/**
 * The closing mark of the display formula that starts here. Null if none starts; if the line closes it, which makes it a
 * part of a paragraph; or if a bracket of text is escaped.
 */
export function mathStart(cursor: Cursor): readonly [string] | null {
  const first = cursor.next;
  const start = cursor.textOffset + 2;
  if (first === DOLLAR) {
    const isDisplay = cursor.at(start - 1) === DOLLAR && cursor.at(start) !== DOLLAR;
    return isDisplay && !hasClosing(cursor, start, DOLLAR) ? ['$$'] : null;
  }
  if (first !== BACKSLASH || cursor.at(start - 1) !== BRACKET_OPEN) return null;
  return hasClosing(cursor, start, BRACKET_CLOSE) ? null : ['\\]'];
}

/** Whether the line has `$$`, or a bracket. */
function hasClosing(cursor: Cursor, from: number, mark: number): boolean {
  for (let at = from, code = cursor.at(at); code !== LINE_END; code = cursor.at(++at)) {
    if (code === mark && (mark !== DOLLAR || cursor.at(at + 1) === mark)) return true;
    if (code === BACKSLASH && mark === DOLLAR) at++;
  }
  return false;
}

/** The end condition of the HTML block that starts here; null if none starts. */
export function htmlStart(cursor: Cursor, interrupts: boolean): HtmlEnd | null {
  if (cursor.next !== LESS) return null;
  const at = cursor.textOffset + 1;
  const code = cursor.at(at);
  if (code === QUESTION) return ['?>'];
  if (code === BANG) return declarationEnd(cursor, at + 1);
  const closing = code === SLASH;
  const start = closing ? at + 1 : at;
  if (!isAlpha(cursor.at(start))) return null;
  const end = skipWhile(cursor, start, isTagName);
  const after = cursor.at(end);
  if (after !== LINE_END && !isSpace(after) && after !== SLASH && after !== GREATER) return null;
  const name = cursor.slice(start, end).toLowerCase();
  if (!closing && after !== SLASH && htmlRawNames.includes(name)) return RAW_ENDS;
  if (htmlBlockNames.includes(name))
    return after !== SLASH || cursor.at(end + 1) === GREATER ? 'blank' : null;
  if (interrupts) return null;
  const tagEnd = closing ? skipSpace(cursor, end) : attributesEnd(cursor, end);
  return tagEnd >= 0 && cursor.at(tagEnd) === GREATER && endsAfter(cursor, tagEnd + 1) ? 'blank' : null;
}

function declarationEnd(cursor: Cursor, at: number): HtmlEnd | null {
  if (cursor.at(at) === DASH) return cursor.at(at + 1) === DASH ? ['-->'] : null;
  if (cursor.at(at) !== BRACKET_OPEN) return isAlpha(cursor.at(at)) ? ['>'] : null;
  const opening = 'CDATA[';
  for (let i = 0; i < opening.length; i++) {
    if (cursor.at(at + 1 + i) !== opening.charCodeAt(i)) return null;
  }
  return [']]>'];
}

/** The offset after the attributes of a tag on one line; -1 if they are malformed. */
function attributesEnd(cursor: Cursor, from: number): number {
  for (let at = from; ; ) {
    const next = skipSpace(cursor, at);
    const code = cursor.at(next);
    if (code === SLASH) return next + 1;
    if (next === at || !(isAlpha(code) || code === COLON || code === UNDERSCORE)) return next;
    at = skipWhile(cursor, next, (c) => isTagName(c) || c === DOT || c === COLON || c === UNDERSCORE);
    const equals = skipSpace(cursor, at);
    if (cursor.at(equals) !== EQUALS) continue;
    at = valueEnd(cursor, skipSpace(cursor, equals + 1));
    if (at < 0) return -1;
  }
}

function valueEnd(cursor: Cursor, at: number): number {
  const mark = cursor.at(at);
  if (mark === QUOTE || mark === APOSTROPHE) {
    const end = skipWhile(cursor, at + 1, (code) => code !== mark);
    return cursor.at(end) === LINE_END ? -1 : end + 1;
  }
  const end = skipWhile(
    cursor,
    at,
    (code) => !isSpace(code) && !'"\'=<>`'.includes(String.fromCharCode(code)),
  );
  return end === at ? -1 : end;
}

function isTagName(code: number): boolean {
  return code === DASH || isAlphanumeric(code);
}

function endsAfter(cursor: Cursor, at: number): boolean {
  return cursor.at(skipSpace(cursor, at)) === LINE_END;
}

function skipRun(cursor: Cursor, from: number, mark: number): number {
  return skipWhile(cursor, from, (code) => code === mark);
}

function skipSpace(cursor: Cursor, from: number): number {
  return skipWhile(cursor, from, isSpace);
}

function skipWhile(cursor: Cursor, from: number, isMember: (code: number) => boolean): number {
  let at = from;
  for (let code = cursor.at(at); code !== LINE_END && isMember(code); code = cursor.at(at)) at++;
  return at;
}
