import { EXPORT_COLUMNS, escapeFormula } from '../../src/services/exports/encoders.ts';
import { addMessage, type Found, type Scanner } from './counts.ts';

const BOM = Buffer.from('\uFEFF');
const HEADER = EXPORT_COLUMNS.join();
const CONVERSATION = EXPORT_COLUMNS.indexOf('conversation_id');
const MESSAGE = EXPORT_COLUMNS.indexOf('message_id');
const CONTENT = EXPORT_COLUMNS.indexOf('content');
/** What is remembered of a field. */
const SHORT = 64;
const [QUOTE, COMMA, RETURN, NEWLINE] = [0x22, 0x2c, 0x0d, 0x0a];

/** `quote`: a quote in a quoted field, which either ends it or stands for one. */
type Place = 'start' | 'bare' | 'quoted' | 'quote' | 'return';

/** Counts what an export to CSV holds: RFC 4180, strictly. @param escaped with byte order mark, and formulas escaped */
export function csvCounter(found: Found, escaped: boolean): Scanner {
  return new CsvCounter(found, escaped);
}

class CsvCounter implements Scanner {
  readonly #found: Found;
  readonly #escaped: boolean;
  #head = Buffer.alloc(0);
  #begun = false;
  #place: Place = 'start';
  #fields: Buffer[] = [];
  #field: Buffer[] = [];
  #fieldBytes = 0;
  #rows = 0;
  #conversation = '';

  constructor(found: Found, escaped: boolean) {
    this.#found = found;
    this.#escaped = escaped;
  }

  write(block: Buffer): void {
    if (this.#begun) this.#scan(block);
    else {
      this.#head = Buffer.concat([this.#head, block]);
      if (this.#head.length >= BOM.length) this.#begin();
    }
  }

  end(): void {
    if (!this.#begun) this.#begin();
    if (this.#place !== 'start' || this.#fields.length > 0 || this.#rows === 0)
      throw new Error('it ends too early');
  }

  #begin(): void {
    const marked = this.#head.subarray(0, BOM.length).equals(BOM);
    if (marked !== this.#escaped) throw new Error(`it has ${marked ? 'a' : 'no'} byte order mark`);
    this.#begun = true;
    this.#scan(marked ? this.#head.subarray(BOM.length) : this.#head);
  }

  #scan(block: Buffer): void {
    for (let at = 0; at < block.length; ) {
      if (this.#place === 'quoted') at = this.#quoted(block, at);
      else if (this.#place === 'bare') at = this.#bare(block, at);
      else at += this.#mark(block[at] ?? 0);
    }
  }

  #quoted(block: Buffer, from: number): number {
    const quote = block.indexOf(QUOTE, from);
    const to = quote < 0 ? block.length : quote;
    this.#remember(block.subarray(from, to));
    if (quote >= 0) this.#place = 'quote';
    return quote < 0 ? to : to + 1;
  }

  #bare(block: Buffer, from: number): number {
    let at = from;
    for (; at < block.length; at++) {
      const byte = block[at];
      if (byte === COMMA || byte === RETURN) break;
      if (byte === QUOTE || byte === NEWLINE) throw new Error('a quote or a line break outside of quotes');
    }
    this.#remember(block.subarray(from, at));
    if (at === block.length) return at;
    this.#separator(block[at] ?? 0);
    return at + 1;
  }

  /**
   * A byte at the start of a field, behind a quote in one, or behind a carriage return.
   * @returns 0 when it is to be looked at again: the first byte of a field without quotes is part of it
   */
  #mark(byte: number): 0 | 1 {
    if (this.#place === 'return') {
      if (byte !== NEWLINE) throw new Error('a line does not end in CRLF');
      this.#endRow();
    } else if (byte === COMMA || byte === RETURN) this.#separator(byte);
    else if (byte === QUOTE) {
      if (this.#place === 'quote') this.#remember(Buffer.from('"'));
      this.#place = 'quoted';
    } else if (this.#place === 'start' && byte !== NEWLINE) {
      this.#place = 'bare';
      return 0;
    } else throw new Error('something outside of quotes that belongs into them');
    return 1;
  }

  #separator(byte: number): void {
    this.#fields.push(Buffer.concat(this.#field));
    this.#field = [];
    this.#fieldBytes = 0;
    this.#place = byte === COMMA ? 'start' : 'return';
  }

  #endRow(): void {
    const fields = this.#fields.map((field) => field.toString());
    this.#fields = [];
    this.#place = 'start';
    this.#rows += 1;
    if (this.#rows === 1) {
      if (fields.join() !== HEADER) throw new Error('its first line does not name the columns');
      return;
    }
    if (fields.length !== EXPORT_COLUMNS.length)
      throw new Error(`row ${this.#rows} has ${fields.length} columns`);
    const [conversation = '', message = '', content = ''] = [CONVERSATION, MESSAGE, CONTENT].map(
      (at) => fields[at],
    );
    if (this.#escaped && !content.startsWith("'") && escapeFormula(content) !== content) {
      throw new Error(`row ${this.#rows} has a content that a spreadsheet could run`);
    }
    if (conversation !== this.#conversation) this.#found.conversations += 1;
    this.#conversation = conversation;
    if (message !== '') addMessage(this.#found, message);
  }

  #remember(bytes: Buffer): void {
    const room = SHORT - this.#fieldBytes;
    if (room <= 0 || bytes.length === 0) return;
    // A copy: the block itself is soon gone.
    const kept = Buffer.from(bytes.subarray(0, room));
    this.#field.push(kept);
    this.#fieldBytes += kept.length;
  }
}
