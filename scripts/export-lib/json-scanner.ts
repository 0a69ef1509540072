/** Reads JSON of any size a block at a time and remembers no more of it than where it is. */

/** Told what is there as it comes. A depth is the number of objects and arrays around it. */
export interface JsonReader {
  /** @param key of the object around it; undefined in an array, or where it is long */
  open(kind: '{' | '[', depth: number, key: string | undefined): void;
  close(depth: number): void;
  /** @param text without quotes, escapes as they are; undefined where it is long */
  scalar(text: string | undefined, depth: number, key: string | undefined): void;
}

/** What may come next. */
type Expected = 'value' | 'value or ]' | 'key' | 'key or }' | ':' | ', or end' | 'nothing';
type Token = 'string' | 'escape' | 'unicode' | 'literal';

const SHORT = 64;
const LITERAL = /^(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)$/;
const LITERAL_BYTE = /[-+.\w]/;
const [QUOTE, BACKSLASH, NEWLINE] = [0x22, 0x5c, 0x0a];

export class JsonScanner {
  readonly #reader: JsonReader;
  readonly #lines: boolean;
  readonly #stack: ('{' | '[')[] = [];
  readonly #keys: (string | undefined)[] = [];
  #expected: Expected = 'value';
  #token: Token | undefined;
  /** Of the token; undefined when it has become long. */
  #text: string | undefined = '';
  #digits = 0;

  /** @param lines one value a line, each line ended; else one value */
  constructor(reader: JsonReader, lines: boolean) {
    this.#reader = reader;
    this.#lines = lines;
  }

  /** @throws Error where it is no JSON */
  write(block: Buffer): void {
    for (let at = 0; at < block.length; )
      at = this.#token ? this.#inToken(block, at) : this.#between(block, at);
  }

  /** @throws Error when it ends too early */
  end(): void {
    if (this.#token || this.#stack.length > 0 || this.#expected !== (this.#lines ? 'value' : 'nothing')) {
      throw new Error('it ends too early');
    }
  }

  #between(block: Buffer, at: number): number {
    const byte = block[at] ?? 0;
    if (byte === NEWLINE && this.#lines) this.#endLine();
    else if (byte === 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d) return at + 1;
    else if (byte === QUOTE) return this.#beginString(at);
    else this.#mark(String.fromCharCode(byte));
    // A literal begins with its first byte.
    return this.#token === 'literal' ? at : at + 1;
  }

  #beginString(at: number): number {
    if (!/^(?:value|key)/.test(this.#expected)) throw new Error(`a string where ${this.#expected} belongs`);
    this.#token = 'string';
    this.#text = '';
    return at + 1;
  }

  #mark(mark: string): void {
    const expected = this.#expected;
    if ((mark === '{' || mark === '[') && expected.startsWith('value')) {
      this.#reader.open(mark, this.#stack.length, this.#keys.at(-1));
      this.#stack.push(mark);
      this.#keys.push(undefined);
      this.#expected = mark === '{' ? 'key or }' : 'value or ]';
    } else if (mark === ':' && expected === ':') this.#expected = 'value';
    else if (mark === ',' && expected === ', or end') {
      this.#expected = this.#stack.at(-1) === '{' ? 'key' : 'value';
    } else if ((mark === '}' || mark === ']') && this.#closes(mark)) {
      this.#stack.pop();
      this.#keys.pop();
      this.#reader.close(this.#stack.length);
      this.#afterValue();
    } else if (LITERAL_BYTE.test(mark) && expected.startsWith('value')) {
      this.#token = 'literal';
      this.#text = '';
    } else throw new Error(`${JSON.stringify(mark)} where ${expected} belongs`);
  }

  #closes(mark: '}' | ']'): boolean {
    const open = this.#stack.at(-1);
    if (mark === '}') return open === '{' && /^(?:key or }|, or end)$/.test(this.#expected);
    return open === '[' && /^(?:value or ]|, or end)$/.test(this.#expected);
  }

  #endLine(): void {
    if (this.#expected !== 'nothing') throw new Error(`a line ends where ${this.#expected} belongs`);
    this.#expected = 'value';
  }

  #inToken(block: Buffer, at: number): number {
    switch (this.#token) {
      case 'string':
        return this.#inString(block, at);
      case 'literal':
        return this.#inLiteral(block, at);
      case 'escape':
        return this.#inEscape(block, at);
      default:
        return this.#inUnicode(block, at);
    }
  }

  #inString(block: Buffer, from: number): number {
    let at = from;
    for (; at < block.length; at++) {
      const byte = block[at] ?? 0;
      if (byte === QUOTE || byte === BACKSLASH) break;
      if (byte < 0x20) throw new Error('a control character in a string');
    }
    this.#remember(block, from, at);
    if (at === block.length) return at;
    if (block[at] === BACKSLASH) {
      this.#token = 'escape';
      this.#remember(block, at, at + 1);
    } else this.#endString();
    return at + 1;
  }

  #inEscape(block: Buffer, at: number): number {
    const mark = String.fromCharCode(block[at] ?? 0);
    if (!'"\\/bfnrtu'.includes(mark)) throw new Error('an unknown escape in a string');
    this.#token = mark === 'u' ? 'unicode' : 'string';
    this.#digits = 4;
    return at + 1;
  }

  #inUnicode(block: Buffer, at: number): number {
    if (!/[\da-fA-F]/.test(String.fromCharCode(block[at] ?? 0)))
      throw new Error('an unknown escape in a string');
    this.#digits -= 1;
    if (this.#digits === 0) this.#token = 'string';
    return at + 1;
  }

  #inLiteral(block: Buffer, from: number): number {
    let at = from;
    while (at < block.length && LITERAL_BYTE.test(String.fromCharCode(block[at] ?? 0))) at += 1;
    this.#remember(block, from, at);
    if (at === block.length) return at;
    this.#token = undefined;
    if (this.#text === undefined || !LITERAL.test(this.#text)) throw new Error('a word that is no value');
    this.#value(this.#text);
    return at;
  }

  #remember(block: Buffer, from: number, to: number): void {
    if (this.#text === undefined || to === from) return;
    const long = this.#text.length + to - from > SHORT;
    this.#text = long ? undefined : this.#text + block.toString('latin1', from, to);
  }

  #endString(): void {
    this.#token = undefined;
    if (this.#expected.startsWith('key')) {
      this.#keys[this.#keys.length - 1] = this.#text;
      this.#expected = ':';
    } else this.#value(this.#text);
  }

  #value(text: string | undefined): void {
    this.#reader.scalar(text, this.#stack.length, this.#keys.at(-1));
    this.#afterValue();
  }

  #afterValue(): void {
    this.#expected = this.#stack.length > 0 ? ', or end' : 'nothing';
  }
}
