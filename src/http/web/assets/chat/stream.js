import { ask } from '../credentials.js';
import { ChatError } from './reply.js';
import { readEvents } from './sse.js';

/** How often in a row a lost connection is made anew before somebody has to ask for it. */
const TRIES = 3;
/** The wait before the first of them, until the server says what it should be (`retry:`); doubled with each. */
const RETRY_MS = 1000;

/** What may pass by itself, unlike a stream that is not there. */
const PASSING = [408, 429, 500, 502, 503, 504];

async function problemOf(response) {
  const known = {
    status: response.status,
    detail: response.statusText,
    request_id: response.headers.get('x-request-id'),
    retry_after: response.headers.get('retry-after'),
  };
  return { ...known, ...(await response.json().catch(() => ({}))) };
}

/** Not `crypto.randomUUID`, which is not there on a plain HTTP page of another host. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('');
}

/** One question and the stream of its reply. It is asked once, however often the connection breaks. */
export class ReplyStream {
  #body;
  #key;
  #id;
  #lastEventId;
  #retryMs = RETRY_MS;
  #stopping = false;
  /** Ends the wait for the next try; undefined while there is none. */
  #wake;

  /** @param key the Idempotency-Key: a question that is sent twice with the same one is asked once */
  constructor(body, key) {
    this.#body = JSON.stringify(body);
    this.#key = key;
  }

  /**
   * The events from the first one that was not given yet; whoever gets `done` or `error` must not ask for more. Goes
   * on by itself, or by being called again, where the connection broke.
   * @param lost told of every lost connection, with the seconds until the next try
   * @throws ChatError `failed` (not answered), `unreachable`, `cutOff` (can be gone on with), `brokenOff`
   */
  async *events(signal, lost) {
    for (let tries = 0; ; tries += 1) {
      try {
        const response = await this.#connect(signal);
        for await (const event of readEvents(response)) {
          this.#lastEventId = event.id;
          this.#retryMs = event.retry ?? this.#retryMs;
          // A connection that brings nothing but a start is no progress.
          if (event.type !== 'start') tries = 0;
          yield event;
        }
      } catch (error) {
        if (signal.aborted || error instanceof ChatError) throw error;
      }
      if (tries === TRIES) throw new ChatError(this.#id ? 'cutOff' : 'unreachable');
      // Somewhat more than asked, differently for each: not all readers should come back at once.
      const ms = this.#retryMs * 2 ** tries * (1 + Math.random() / 4);
      lost(Math.ceil(ms / 1000));
      await this.#pause(ms, signal);
    }
  }

  /** Ends the reply, whose last event then says so. @returns whether the server was told, or is going to be */
  async stop() {
    this.#stopping = true;
    if (!this.#id) return this.#wake === undefined;
    const response = await ask(`/api/chat-stream/${this.#id}`, { method: 'DELETE' }).catch(() => undefined);
    this.#wake?.();
    return response?.ok ?? false;
  }

  async #connect(signal) {
    const response = await (this.#id ? this.#resume(signal) : this.#ask(signal));
    if (response.ok) {
      this.#id = response.headers.get('x-stream-id') ?? this.#id;
      if (this.#stopping) void this.stop();
      return response;
    }
    const problem = await problemOf(response);
    if (this.#id === undefined) throw new ChatError('failed', problem);
    // With another key it can be gone on with.
    if (response.status === 401) throw new ChatError('cutOff', problem);
    // Not before it is said that it will do.
    if (problem.retry_after) this.#retryMs = Math.max(this.#retryMs, problem.retry_after * 1000);
    if (!PASSING.includes(response.status)) throw new ChatError('brokenOff', problem);
    throw new Error(problem.detail);
  }

  #ask(signal) {
    const headers = {
      'content-type': 'application/json',
      accept: 'text/event-stream',
      'idempotency-key': this.#key,
    };
    return ask('/api/chat-stream', { method: 'POST', headers, body: this.#body, signal });
  }

  #resume(signal) {
    const from = this.#lastEventId ? { 'last-event-id': this.#lastEventId } : {};
    const headers = { accept: 'text/event-stream', ...from };
    return ask(`/api/chat-stream/${this.#id}`, { headers, cache: 'no-store', signal });
  }

  /** Shorter when the browser says that the network is back. */
  async #pause(ms, signal) {
    await new Promise((resolve, reject) => {
      setTimeout(resolve, ms);
      this.#wake = resolve;
      addEventListener('online', resolve, { once: true, signal });
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
    this.#wake = undefined;
  }
}
