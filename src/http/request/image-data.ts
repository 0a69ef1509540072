/** Bodies that are too large to be read as a whole because of the images in them. */
import { randomUUID } from 'node:crypto';
import { setImmediate as immediate } from 'node:timers/promises';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
/** In any case of its letters. */
const START = '"data:';
const NOTHING = Buffer.alloc(0);
/** Shorter URLs count as the rest of the body does. */
const MIN_BYTES = 1024;

/** Of what a sender may cut into single bytes: as chunks of its own each would take a hundred times as much memory. */
const BLOCK_BYTES = 64 * 1024;

/** Of the bytes of the body. */
interface Segment {
  /** Of a `data:` URL: the string without its quotes. At first also of text that quotes one. */
  isUrl: boolean;
  readonly from: number;
  to: number;
}

/**
 * The bytes of a JSON body, with long `data:` URLs apart: decoding and parsing 22 MB blocks the event loop for a quarter
 * of a second, and text that is not Latin-1 doubles the memory.
 */
export class CutBody {
  /** Bytes of all but the URLs, so far. */
  restBytes = 0;
  urlBytes = 0;
  /** Full ones, and the last one. */
  readonly #blocks: Buffer[] = [];
  readonly #segments: Segment[] = [];
  #last: Segment = this.#open(false);
  /** The end of the bytes so far, which can be the beginning of {@link START}. */
  #held: Buffer = NOTHING;
  /** At the end of the bytes so far, inside a URL. */
  #backslashes = 0;
  /** Their names are in the body of {@link rest}. */
  readonly #urls = new Map<string, Segment>();

  push(chunk: Buffer): void {
    let data = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    this.#held = NOTHING;
    while (data.length > 0) data = this.#last.isUrl ? this.#pushUrl(data) : this.#pushRest(data);
  }

  /** Called after the last bytes. */
  end(): void {
    this.#add(this.#held);
    this.#held = NOTHING;
    if (this.#last.isUrl) this.#endUrl();
    const nonce = randomUUID();
    for (const segment of this.#segments) {
      if (segment.isUrl) this.#urls.set(`data:${nonce}.${this.#urls.size}`, segment);
    }
  }

  /** The body with a short name in the place of each long URL. */
  rest(): Buffer {
    const names = new Map(Array.from(this.#urls, ([name, segment]) => [segment, Buffer.from(name)]));
    return Buffer.concat(this.#segments.flatMap((segment) => names.get(segment) ?? this.#bytesOf(segment)));
  }

  /**
   * Makes each URL that is no image of the message part of the rest.
   * @param body the value of {@link rest}
   * @returns whether there were any
   */
  keepOnlyImages(body: unknown): boolean {
    const used = new Set(imagesOf(body).map(({ url }) => url));
    const others = Array.from(this.#urls).filter(([name]) => !used.has(name));
    for (const [name, segment] of others) {
      this.#urls.delete(name);
      this.#countAsRest(segment);
    }
    return others.length > 0;
  }

  /** Puts the URLs of the images of the message back, one a tick of the event loop. */
  async restore(body: unknown): Promise<void> {
    for (const image of imagesOf(body)) {
      const url = this.#urls.get(image.url);
      if (!url) continue;
      image.url = unescaped(Buffer.concat(this.#bytesOf(url)).toString('latin1'));
      await immediate();
    }
  }

  #bytesOf({ from, to }: Segment): Buffer[] {
    const found: Buffer[] = [];
    for (let at = from; at < to; ) {
      const start = at % BLOCK_BYTES;
      const bytes = this.#blocks[(at - start) / BLOCK_BYTES]?.subarray(start, start + to - at) ?? NOTHING;
      found.push(bytes);
      at += bytes.length;
    }
    return found;
  }

  /** @returns what is not taken yet */
  #pushRest(data: Buffer): Buffer {
    const at = startOfUrl(data);
    if (at < 0) {
      const end = Math.max(0, data.length - START.length + 1);
      this.#add(data.subarray(0, end));
      this.#held = data.subarray(end);
      return NOTHING;
    }
    this.#add(data.subarray(0, at + 1));
    this.#last = this.#open(true);
    this.#backslashes = 0;
    return data.subarray(at + 1);
  }

  #pushUrl(data: Buffer): Buffer {
    const at = this.#endOfString(data);
    this.#add(data.subarray(0, at));
    if (at === data.length) return NOTHING;
    this.#endUrl();
    return data.subarray(at);
  }

  #endUrl(): void {
    if (lengthOf(this.#last) < MIN_BYTES) this.#countAsRest(this.#last);
    this.#last = this.#open(false);
  }

  #countAsRest(segment: Segment): void {
    segment.isUrl = false;
    this.restBytes += lengthOf(segment);
    this.urlBytes -= lengthOf(segment);
  }

  #endOfString(data: Buffer): number {
    for (let at = data.indexOf(QUOTE); at >= 0; at = data.indexOf(QUOTE, at + 1)) {
      if (this.#backslashesBefore(data, at) % 2 === 0) return at;
    }
    this.#backslashes = this.#backslashesBefore(data, data.length);
    return data.length;
  }

  #backslashesBefore(data: Buffer, at: number): number {
    let count = 0;
    while (data[at - 1 - count] === BACKSLASH) count += 1;
    return count === at ? count + this.#backslashes : count;
  }

  #open(isUrl: boolean): Segment {
    const from = this.restBytes + this.urlBytes;
    const segment = { isUrl, from, to: from };
    this.#segments.push(segment);
    return segment;
  }

  #add(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const start = this.#last.to % BLOCK_BYTES;
      if (start === 0) this.#blocks.push(Buffer.allocUnsafe(BLOCK_BYTES));
      const copied = bytes.copy(this.#blocks.at(-1) ?? NOTHING, start, at);
      at += copied;
      this.#last.to += copied;
    }
    if (this.#last.isUrl) this.urlBytes += bytes.length;
    else this.restBytes += bytes.length;
  }
}

/** @returns the place of {@link START}, or -1 */
function startOfUrl(data: Buffer): number {
  for (let at = 0; at < data.length; at += 1) {
    if (data[at] !== QUOTE || data[at + START.length - 1] !== COLON) continue;
    if (data.toString('latin1', at, at + START.length).toLowerCase() === START) return at;
  }
  return -1;
}

function lengthOf({ from, to }: Segment): number {
  return to - from;
}

/** The text of a JSON string: some programs write each slash as `\/`. What is no JSON is no base64 either. */
function unescaped(text: string): string {
  if (!text.includes('\\')) return text;
  try {
    return JSON.parse(`"${text}"`);
  } catch {
    return text;
  }
}

interface Image {
  url: string;
}

/** The images of the message, or of those of a chat completion, in a body that is not validated yet. */
function imagesOf(body: unknown): Image[] {
  const { message, messages } = Object(body);
  const contents: unknown[] = [message];
  if (Array.isArray(messages)) for (const one of messages) contents.push(Object(one).content);
  return contents
    .flatMap((content: unknown) => (Array.isArray(content) ? content : []))
    .map((part: unknown): unknown => Object(part).image_url)
    .filter(isImage);
}

function isImage(value: unknown): value is Image {
  return typeof Object(value).url === 'string';
}
