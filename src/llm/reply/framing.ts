import { createParser, type EventSourceParser } from 'eventsource-parser';
import { isObject, parseJson } from '../../util/json.ts';
import { type Json, parseObject } from './shapes.ts';

/** The callbacks for what a body contains, called in its order. */
export interface BodyEvents {
  chunk(object: Json): void;
  /** `[DONE]`. */
  done(): void;
  /** An event named `error`; the value is its object or text. */
  failure(value: unknown): void;
  /** A chunk is not JSON, so text may be missing. */
  broken(): void;
  /** One event or JSON text exceeds the limit. No other callback follows. */
  tooLong(): void;
}

/** How the JSON texts of the body are separated. `unknown` until its first character. */
type Form = 'unknown' | 'events' | 'lines' | 'value';

const DONE = '[DONE]';
const LINE_END = /\r\n|\r|\n/;
/** Two `data:` lines of one event, perhaps with other fields between them. */
const JOINED_DATA = /^data: ?(.*)(?:\r\n|\r|\n)(?:(?!data:).+(?:\r\n|\r|\n))*data:/m;
const SSE_FIELD = /^\ufeff?(?:data|event|id|retry)?:/m;
/** How much of the body is searched for its first event, behind comments. */
const MAX_HEAD_CHARS = 64 * 1024;

/**
 * Reads the JSON objects of a response body. It detects the form of the body, because some servers send another one
 * than was requested: server-sent events, also without empty lines between them, one JSON text, or a JSON text on each
 * line. Events that are no chunks are skipped.
 */
export class Framing {
  readonly #on: BodyEvents;
  readonly #maxChars: number;
  /** Created with the first event, because a body that is one JSON text needs none. */
  #parser: EventSourceParser | undefined;
  #form: Form = 'unknown';
  /** The body before its first event. Undefined when the form of the body is known. */
  #head: string | undefined = '';
  /** The pieces of an unfinished JSON text or line. */
  #pieces: string[] = [];
  #size = 0;
  #eventName: string | undefined;
  #hasValues = false;

  constructor(maxChars: number, on: BodyEvents) {
    this.#maxChars = maxChars;
    this.#on = on;
  }

  /** Whether the body has text that is neither JSON nor an event. */
  get isForeign(): boolean {
    return this.#head !== undefined && this.#head.trim() !== '' && !SSE_FIELD.test(this.#head);
  }

  /** Whether the body is one JSON text. */
  get isValue(): boolean {
    return this.#form === 'value';
  }

  feed(text: string): void {
    if (this.#head === undefined && this.#form === 'events') this.#parse(text);
    else this.#feedSlowly(text);
  }

  /** The body has ended. */
  end(): void {
    const rest = this.#pieces.join('');
    this.#pieces = [];
    // The last event may lack its empty line.
    if (this.#form === 'events') this.#parse('\n\n');
    else if (this.#form === 'lines') this.#onLine(rest);
    else if (rest !== '') this.#onValue(rest);
  }

  #parse(text: string): void {
    this.#parser ??= createParser({
      maxBufferSize: this.#maxChars,
      onEvent: ({ data, event }) => this.#onData(data, event),
      onError: ({ type }) => type === 'max-buffer-size-exceeded' && this.#on.tooLong(),
    });
    this.#parser.feed(text);
  }

  #feedSlowly(text: string): void {
    if (this.#form === 'unknown') this.#detect(text);
    else if (this.#form === 'events') this.#feedFirstEvents(text);
    else this.#collect(text);
  }

  #detect(text: string): void {
    const start = text.trimStart().charAt(0);
    // trimStart removes a byte order mark too.
    if (start === '') return;
    this.#form = start === '{' || start === '[' ? 'value' : 'events';
    this.#feedSlowly(this.#form === 'value' ? text.trimStart() : text);
  }

  /** Some servers end an event with a single line break. The parser would then read the whole body as one event. */
  #feedFirstEvents(text: string): void {
    const head = (this.#head ?? '') + text;
    const joined = JOINED_DATA.exec(head)?.[1];
    if (joined !== undefined && parseObject(joined)) {
      this.#head = undefined;
      this.#form = 'lines';
      this.#collect(head);
      return;
    }
    this.#head = head.length < MAX_HEAD_CHARS ? head : undefined;
    this.#parse(text);
    if (this.#hasValues) this.#head = undefined;
  }

  #collect(text: string): void {
    this.#pieces.push(text);
    this.#size += text.length;
    if (this.#form === 'lines' || this.#head !== undefined) this.#cutLines(text);
    if (this.#size <= this.#maxChars) return;
    this.#pieces = [];
    this.#size = 0;
    this.#on.tooLong();
  }

  #cutLines(last: string): void {
    if (!LINE_END.test(last)) return;
    const lines = this.#pieces.join('').split(LINE_END);
    // If the first line is an object, each line is one; otherwise the body is one JSON text of many lines.
    if (this.#form === 'value') {
      this.#head = undefined;
      if (!parseObject(lines[0] ?? '')) return;
      this.#form = 'lines';
    }
    const rest = lines.pop() ?? '';
    this.#pieces = [rest];
    this.#size = rest.length;
    for (const line of lines) this.#onLine(line);
  }

  #onLine(line: string): void {
    const name = /^event: ?(.*)/.exec(line)?.[1];
    if (name !== undefined) this.#eventName = name;
    else if (/^(?:data:|[{[])/.test(line)) this.#onData(line.replace(/^data: ?/, ''), this.#eventName);
    if (!name) this.#eventName = undefined;
  }

  /** One JSON text, perhaps with `data: [DONE]` behind it. */
  #onValue(text: string): void {
    const at = text.includes('data:') ? text.search(/^data:/m) : -1;
    this.#onData(at < 0 ? text : text.slice(0, at), undefined);
    if (at >= 0) for (const line of text.slice(at).split(LINE_END)) this.#onLine(line);
  }

  #onData(data: string, event: string | undefined): void {
    const value = data === DONE ? undefined : parseJson(data);
    if (isObject(value)) {
      this.#onObject(value, event);
      return;
    }
    const text = data.trim();
    if (text === DONE) this.#on.done();
    else if (event === 'error' && text !== '') this.#on.failure(value ?? text);
    else if (Array.isArray(value)) for (const one of value.filter(isObject)) this.#onObject(one, event);
    else if (value === undefined && /^[{[]/.test(text)) this.#onBroken(text, event);
  }

  #onObject(object: Json, event: string | undefined): void {
    this.#hasValues = true;
    if (event === 'error') this.#on.failure(object);
    else this.#on.chunk(object);
  }

  /** Reads an event with several JSON texts, or with `NaN` and `Infinity`, which JSON does not have. */
  #onBroken(text: string, event: string | undefined): void {
    const lines = text.split(LINE_END);
    const isJoined = lines.length > 1 && lines.every((line) => line.trim() === DONE || parseObject(line));
    if (isJoined) {
      for (const line of lines) this.#onData(line, event);
      return;
    }
    const strict = text.replaceAll(/"(?:[^"\\]|\\.)*(?:"|$)|-?\b(?:NaN|Infinity)\b/g, (token) =>
      token.startsWith('"') ? token : 'null',
    );
    if (strict !== text && parseObject(strict)) this.#onData(strict, event);
    else this.#on.broken();
  }
}
