/**
 * Reads one event stream. It reads from the connection only during a call, so between two calls it is a slow client. A
 * line that the documented format does not have is an error.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http';
import { json } from 'node:stream/consumers';
import { z } from 'zod';

export interface StreamEvent {
  /** `content` is a piece of the reply, which has no name on the wire; `ping` the comment. */
  readonly type: 'start' | 'reasoning' | 'content' | 'done' | 'error' | 'ping';
  /** As sent; empty for a ping and for reasoning. */
  readonly id: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly content: string;
  readonly raw: string;
}

const payload = z.looseObject({ content: z.string() });
const NAMES = ['start', 'reasoning', 'done', 'error'] as const;

export class SseReader {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly #response: IncomingMessage;
  readonly #source: AsyncIterator<Buffer>;
  // fatal: an incomplete character must be an error and not become U+FFFD.
  readonly #decoder = new TextDecoder('utf-8', { fatal: true });
  #text = '';

  constructor(response: IncomingMessage) {
    this.#response = response;
    this.status = response.statusCode ?? 0;
    this.headers = response.headers;
    this.#source = response[Symbol.asyncIterator]();
  }

  /** The next event; undefined after a clean end. Rejects when the connection breaks. */
  async next(): Promise<StreamEvent | undefined> {
    for (;;) {
      const end = this.#text.indexOf('\n\n');
      if (end >= 0) {
        const block = this.#text.slice(0, end + 2);
        this.#text = this.#text.slice(end + 2);
        return parse(block);
      }
      const { done, value } = await this.#source.next();
      if (done) {
        assert.equal(this.#text, '', 'the stream ends in the middle of an event');
        return undefined;
      }
      this.#text += this.#decoder.decode(value, { stream: true });
    }
  }

  /** Reads up to the next event of this type, and ignores the others. */
  async until(type: StreamEvent['type']): Promise<StreamEvent> {
    for (;;) {
      const event = await this.next();
      assert(event, `the stream ended before an event "${type}"`);
      if (event.type === type) return event;
    }
  }

  /** All further events. */
  async rest(): Promise<StreamEvent[]> {
    const events: StreamEvent[] = [];
    for (let event = await this.next(); event; event = await this.next()) events.push(event);
    return events;
  }

  /** The JSON body of a response that is no stream. */
  async json(): Promise<Record<string, unknown>> {
    return z.record(z.string(), z.unknown()).parse(await json(this.#response));
  }

  /** Cuts the connection. */
  leave(): void {
    this.#response.destroy();
  }
}

/** Requests a stream on its own connection, which the signal cuts; resolves when the headers have come. */
export async function openStream(
  url: string,
  body: object,
  options: { readonly headers?: Record<string, string>; readonly signal?: AbortSignal } = {},
): Promise<SseReader> {
  const { headers = {}, signal } = options;
  const outgoing = request(`${url}/api/chat-stream`, {
    method: 'POST',
    agent: false,
    headers: { 'content-type': 'application/json', ...headers },
    ...(signal ? { signal } : {}),
  });
  outgoing.end(JSON.stringify(body));
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  // A disconnect rejects the current read, if there is one.
  response.on('error', () => {});
  outgoing.on('error', () => {});
  return new SseReader(response);
}

export interface ResumeOptions {
  /** Several are sent as several header lines. */
  readonly lastEventId?: string | readonly string[];
  /** As in the URL, without the question mark. */
  readonly query?: string;
  readonly headers?: Record<string, string>;
}

/** Resumes a stream on its own connection; resolves when the headers have come. */
export async function resumeStream(url: string, id: string, options: ResumeOptions = {}): Promise<SseReader> {
  const { lastEventId, query, headers = {} } = options;
  const position = lastEventId === undefined ? {} : { 'last-event-id': [lastEventId].flat() };
  const outgoing = request(`${url}/api/chat-stream/${id}${query === undefined ? '' : `?${query}`}`, {
    agent: false,
    headers: { ...position, ...headers },
  });
  outgoing.end();
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  response.on('error', () => {});
  outgoing.on('error', () => {});
  return new SseReader(response);
}

/** The text of all content events in a list. */
export function joined(events: readonly StreamEvent[]): string {
  return events.map(({ content }) => content).join('');
}

/** The reasoning in a list of events. */
export function joinedReasoning(events: readonly StreamEvent[]): string {
  return events.map(({ data }) => (typeof data.reasoning === 'string' ? data.reasoning : '')).join('');
}

/**
 * Checks the rules of every stream, also after faults: `start` is first and unique, one `done` or `error` is last, all
 * ids have the same stream id and count the output from its beginning, no character is split.
 * @returns the last event
 */
export function checkStream(events: readonly StreamEvent[]): StreamEvent {
  const told = events.filter(({ type }) => type !== 'ping' && type !== 'reasoning');
  const thought = events.filter(({ type }) => type === 'reasoning');
  for (const { id, content } of thought) assert.deepEqual([id, content], ['', '']);
  const first = told[0];
  const last = told.at(-1);
  assert(first && last, 'the stream is empty');
  assert.equal(first.type, 'start');
  assert.match(last.type, /^(done|error)$/);
  assert.equal(events.at(-1), last, 'something follows the end');
  assert.deepEqual(
    [...new Set(told.slice(1, -1).map(({ type }) => type))].join(),
    told.length > 2 ? 'content' : '',
  );
  let length = Number(first.data.offset ?? 0);
  for (const event of told) {
    assert(event.content.isWellFormed(), 'a surrogate pair is split');
    length += event.content.length;
    // `reply_cut`: the client has more text than is stored, and the event has the stored length.
    if (event.data.code === 'reply_cut') length = Number(event.data.length);
    assert.equal(event.id, `${first.data.stream_id}:${length}${event === last ? ':end' : ''}`);
  }
  return last;
}

function parse(block: string): StreamEvent {
  if (block === ': ping\n\n') return { type: 'ping', id: '', data: {}, content: '', raw: block };
  const fields = new Map<string, string>();
  for (const line of block.slice(0, -2).split('\n')) {
    const match = /^(retry|event|id|data): (.+)$/s.exec(line);
    assert(match?.[1] && match[2] && !fields.has(match[1]), `no line of an event: ${line.slice(0, 80)}`);
    fields.set(match[1], match[2]);
  }
  const name = fields.get('event');
  const type = name === undefined ? 'content' : NAMES.find((known) => known === name);
  assert(type, `an event of the name ${name}`);
  const data = payload.parse(JSON.parse(fields.get('data') ?? ''));
  assert.equal(fields.has('retry'), type === 'start' || data.resume !== undefined);
  return { type, id: fields.get('id') ?? '', data, content: data.content, raw: block };
}
