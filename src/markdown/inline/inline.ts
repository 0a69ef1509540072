import {
  AMPERSAND,
  BACKSLASH,
  BACKTICK,
  BANG,
  BRACKET_CLOSE,
  BRACKET_OPEN,
  COLON,
  DOLLAR,
  DOT,
  isAsciiPunctuation,
  isDigit,
  isSpace,
  isSpecial,
  LESS,
  NEWLINE,
  PAREN_OPEN,
  SLASH,
  STAR,
  TILDE,
  UNDERSCORE,
} from '../chars.ts';
import { flanking } from './flanking.ts';
import { decodeString, scanReference } from './references.ts';
import { peek, type Scan, skip } from './scan.ts';
import { CodeSpans } from './scan-code.ts';
import { scanAutolink, scanHtml } from './scan-html.ts';
import { scanResource } from './scan-link.ts';
import { MathSpans } from './scan-math.ts';
import { isProtocol, isWww, scanUrl } from './scan-url.ts';
import { END, MORE, Source } from './source.ts';
import { Spans } from './spans.ts';

/**
 * The maximum of source that is held back, in code units. A construct that is still open after so many is text. It
 * bounds the memory and the work of one step.
 */
export const MAX_HELD = 16 * 1024;

/**
 * Parses the inline text of one paragraph, heading or table cell. The text arrives in pieces (lines joined by line
 * feeds, without indentation); output is emitted as soon as it is final.
 */
export class Inline {
  readonly #sink: (text: string) => void;
  readonly #inTable: boolean;
  #source = new Source();
  #spans: Spans;
  #reader: Scan<void>;
  #absent = new Set<string>();
  #codeSpans = new CodeSpans();
  #mathSpans = new MathSpans();
  #position = 0;
  #idle = false;
  /** Held line endings, and the white space after them; dropped at the end of a line or of the text. */
  #lineEndings = 0;
  #space = '';
  #emitted = 0;

  /**
   * @param sink receives pieces of the text, in which a line feed starts a new line
   * @param inTable whether `\\|` is a pipe in code and formulas too
   */
  constructor(sink: (text: string) => void, inTable = false) {
    this.#inTable = inTable;
    this.#sink = (text) => {
      this.#emitted += text.length;
      sink(text);
    };
    this.#spans = new Spans(this.#sink);
    this.#reader = this.#read();
  }

  /** Whether all input has been parsed and emitted, except white space. */
  get settled(): boolean {
    return this.#idle && this.#spans.settled;
  }

  /** Whether the reader is between two constructs, so that `feedPlain` may be used. */
  get idle(): boolean {
    return this.#idle;
  }

  /** Characters emitted since `startLine`; negative while its line feed is held. */
  get emitted(): number {
    return this.#emitted;
  }

  feed(text: string): void {
    let from = 0;
    for (let room = this.#room; text.length - from >= room; room = this.#room) {
      this.#feed(text.slice(from, from + room));
      from += room;
      if (this.#room === 0) this.#startOver();
    }
    if (from < text.length) this.#feed(from === 0 ? text : text.slice(from));
  }

  /** Whether so much text can be fed without reaching the maximum that is held. */
  hasRoom(length: number): boolean {
    return length < this.#room;
  }

  /** Like `feed`, for an idle reader with room, and text without special characters and without white space at its end. */
  feedPlain(text: string): void {
    this.#source.append(text);
    this.#position = this.#source.end;
    this.#source.forget(this.#position);
    this.#text(text);
  }

  startLine(): void {
    this.feed('\n');
    this.#emitted = -1;
  }

  end(): void {
    this.#source.close();
    this.#reader.next();
    this.#spans.end();
  }

  #feed(text: string): void {
    this.#source.append(text);
    this.#reader.next();
  }

  /** Depends on the text alone, not on how it was cut. */
  get #room(): number {
    const heldFrom = this.#spans.settled ? this.#position : this.#spans.heldFrom;
    return MAX_HELD - (this.#source.end - heldFrom);
  }

  /** Emits what is held, as at the end of the block, and continues as at its start. */
  #startOver(): void {
    this.end();
    this.#source = new Source();
    this.#spans = new Spans(this.#sink);
    this.#absent = new Set();
    this.#codeSpans = new CodeSpans();
    this.#mathSpans = new MathSpans();
    this.#position = 0;
    this.#reader = this.#read();
    this.#reader.next();
  }

  *#read(): Scan<void> {
    for (;;) {
      this.#readPlain();
      const code = this.#source.at(this.#position);
      if (code === END) return;
      if (code === MORE) {
        this.#source.forget(this.#position);
        this.#idle = true;
        yield;
        this.#idle = false;
      } else {
        yield* this.#readSpecial(code);
      }
    }
  }

  /** Reads up to the next special character. */
  #readPlain(): void {
    const source = this.#source;
    let at = this.#position;
    let textEnd = at;
    for (; at < source.end; at++) {
      const code = source.at(at);
      if (isSpecial(code)) {
        if (isSpace(code)) continue;
        if ((code !== DOT && code !== COLON) || this.#startsUrl(code, at)) break;
      }
      textEnd = at + 1;
    }
    if (textEnd > this.#position) this.#text(source.slice(this.#position, textEnd));
    if (at > textEnd) this.#space += source.slice(textEnd, at);
    this.#position = at;
  }

  #startsUrl(code: number, at: number): boolean {
    if (this.#spans.inBrackets) return false;
    return code === DOT ? isWww(this.#source, at) : isProtocol(this.#source, at);
  }

  *#readSpecial(code: number): Scan<void> {
    switch (code) {
      case NEWLINE:
        // Two line endings in a row: a line that consists of a backslash.
        this.#lineEndings++;
        this.#space = '';
        this.#position++;
        return;
      case BACKSLASH:
        return yield* this.#readEscape();
      case DOLLAR:
        return yield* this.#readDollars();
      case AMPERSAND:
        return yield* this.#readReference();
      case BACKTICK:
        return yield* this.#readCode();
      case LESS:
        return yield* this.#readAngle();
      case STAR:
      case UNDERSCORE:
      case TILDE:
        return yield* this.#readRun(code);
      case BANG:
      case BRACKET_OPEN:
        return yield* this.#readOpening(code);
      case BRACKET_CLOSE:
        return yield* this.#readClosing();
      default:
        return yield* this.#readUrl(code);
    }
  }

  *#readEscape(): Scan<void> {
    const next = yield* peek(this.#source, this.#position + 1);
    const mayBeMath = next === PAREN_OPEN || (next === BRACKET_OPEN && !this.#spans.inBrackets);
    const mathEnd = mayBeMath ? yield* this.#mathSpans.scanEscaped(this.#source, this.#position) : -1;
    if (mathEnd >= 0) this.#takeMath(mathEnd);
    else if (next === NEWLINE) this.#position++;
    else if (isAsciiPunctuation(next)) this.#take(String.fromCharCode(next), this.#position + 2);
    else this.#take('\\', this.#position + 1);
  }

  *#readDollars(): Scan<void> {
    const { end, isMath } = yield* this.#mathSpans.scanDollars(this.#source, this.#position);
    if (isMath) this.#takeMath(end);
    else this.#take('$'.repeat(end - this.#position), end);
  }

  *#readReference(): Scan<void> {
    const reference = yield* scanReference(this.#source, this.#position);
    this.#take(reference?.text ?? '&', reference?.end ?? this.#position + 1);
  }

  *#readCode(): Scan<void> {
    const span = yield* this.#codeSpans.scan(this.#source, this.#position);
    this.#take(span.isCode ? this.#literal(span.text) : span.text, span.end);
  }

  *#readAngle(): Scan<void> {
    const start = this.#position;
    const linkEnd = yield* scanAutolink(this.#source, start);
    if (linkEnd > 0) return this.#take(this.#source.slice(start + 1, linkEnd - 1), linkEnd);
    const end = yield* scanHtml(this.#source, start, this.#absent);
    this.#take(end > 0 ? this.#source.slice(start, end) : '<', end > 0 ? end : start + 1);
  }

  *#readRun(mark: number): Scan<void> {
    const source = this.#source;
    const start = this.#position;
    const end = yield* skip(source, start, (code) => code === mark);
    let next = yield* peek(source, end);
    if (next >= 0xd800 && next <= 0xdbff) {
      const low = yield* peek(source, end + 1);
      if (low >= 0xdc00 && low <= 0xdfff) next = (next - 0xd800) * 0x400 + (low - 0xdc00) + 0x10000;
    }
    const length = end - start;
    if (mark === TILDE && length !== 2) return this.#take('~'.repeat(length), end);
    const previous = source.before(start);
    // A product such as 3*4*5 or a power such as 2**3.
    if (mark === STAR && isDigit(previous) && isDigit(next)) return this.#take('*'.repeat(length), end);
    const beforePrevious = source.before(start - (previous > 0xffff ? 2 : 1));
    const { opens, closes } = flanking(mark, orNull(beforePrevious), orNull(previous), orNull(next));
    this.#flushSpace();
    this.#position = end;
    this.#spans.run(start, String.fromCharCode(mark), length, opens, closes);
  }

  *#readOpening(code: number): Scan<void> {
    const image = code === BANG;
    if (image && (yield* peek(this.#source, this.#position + 1)) !== BRACKET_OPEN) {
      return this.#take('!', this.#position + 1);
    }
    this.#flushSpace();
    this.#spans.open(this.#position, image);
    this.#position += image ? 2 : 1;
  }

  *#readClosing(): Scan<void> {
    const after = this.#position + 1;
    if (!this.#spans.inBrackets) return this.#take(']', after);
    this.#flushSpace();
    if (this.#spans.canLink && (yield* peek(this.#source, after)) === PAREN_OPEN) {
      const resource = yield* scanResource(this.#source, after, this.#absent);
      if (resource) {
        this.#position = resource.end;
        return this.#spans.link(decodeString(resource.address));
      }
    }
    this.#position = after;
    this.#spans.close();
  }

  *#readUrl(code: number): Scan<void> {
    this.#take(String.fromCharCode(code), this.#position + 1);
    if (code === COLON) {
      if ((yield* peek(this.#source, this.#position)) !== SLASH) return;
      if ((yield* peek(this.#source, this.#position + 1)) !== SLASH) return;
      this.#take('//', this.#position + 2);
    }
    yield* scanUrl(this.#source, this.#position, (upTo) => {
      if (upTo > this.#position) this.#take(this.#source.slice(this.#position, upTo), upTo);
    });
  }

  #takeMath(end: number): void {
    this.#take(this.#literal(this.#source.slice(this.#position, end)), end);
  }

  #literal(text: string): string {
    return this.#inTable ? text.replaceAll('\\|', '|') : text;
  }

  #take(text: string, end: number): void {
    this.#position = end;
    this.#text(text);
  }

  #text(text: string): void {
    this.#flushSpace();
    this.#spans.text(text);
  }

  #flushSpace(): void {
    if (this.#space === '' && this.#lineEndings === 0) return;
    this.#spans.text('\n'.repeat(this.#lineEndings) + this.#space);
    this.#lineEndings = 0;
    this.#space = '';
  }
}

function orNull(code: number): number | null {
  return code < 0 ? null : code;
}
