import { request } from '../credentials.js';
import { ChatError, problemOf } from './problem.js';
import { readEvents } from './sse.js';

/** Automatic reconnections in a row; then the user has to resume. */
const MAX_RETRIES = 3;
/** The delay of the first reconnection until the server sends `retry:`. It doubles with each. */
const RETRY_MS = 1000;

/** Statuses that are worth a retry. */
const TEMPORARY = [408, 429, 500, 502, 503, 504];

/** `crypto.randomUUID` exists only in secure contexts, so not on plain HTTP pages of other hosts. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('');
}

const PENDING = 'pending-question';

/** Keeps a question for a reload of this tab before its reply has begun. undefined: none. */
export function keepPending(question) {
  try {
    if (question) sessionStorage.setItem(PENDING, JSON.stringify(question));
    else sessionStorage.removeItem(PENDING);
  } catch {
    // Storage is not allowed, or the question is larger than it. A reload then does not send the question again.
  }
}

export function pendingQuestion() {
  try {
    return JSON.parse(sessionStorage.getItem(PENDING) ?? 'null') ?? undefined;
  } catch {
    return undefined;
  }
}

/** One question and the stream of its reply, across lost connections. */
export class ReplyStream {
  #body;
  #key;
  #id;
  #lastEventId;
  #retryMs = RETRY_MS;
  #stopping = false;
  /** Ends the delay before the next retry; undefined outside of it. */
  #retryNow;

  /** @param question `{ body, key }`; `key` is the Idempotency-Key */
  constructor({ body, key } = {}) {
    this.#body = JSON.stringify(body);
    this.#key = key;
  }

  /** The stream of a reply that was begun earlier, from its start. */
  static resume(id) {
    const stream = new ReplyStream();
    stream.#id = id;
    return stream;
  }

  /**
   * The events that were not yielded yet. It reconnects after a lost connection; calling it again resumes too. Callers
   * stop at `done` or `error`.
   * @param onLost called for every lost connection, with the seconds until the next retry
   * @throws ChatError `failed` (by the server), `unreachable`, `cutOff` (can be resumed)
   */
  async *events(signal, onLost) {
    for (let retries = 0; ; retries += 1) {
      try {
        const response = await this.#connect(signal);
        for await (const event of readEvents(response)) {
          this.#lastEventId = event.id;
          this.#retryMs = event.retry ?? this.#retryMs;
          // A connection that yields only `start` is no progress.
          if (event.type !== 'start') retries = 0;
          yield event;
        }
      } catch (error) {
        if (signal.aborted || error instanceof ChatError) throw error;
      }
      if (retries === MAX_RETRIES) throw new ChatError(this.#id ? 'cutOff' : 'unreachable');
      // With jitter, so that readers do not reconnect at the same time.
      const ms = this.#retryMs * 2 ** retries * (1 + Math.random() / 4);
      onLost(Math.ceil(ms / 1000));
      await this.#pause(ms, signal);
    }
  }

  /** Stops the reply, whose last event then says so. @returns whether the server was or will be notified */
  async stop() {
    this.#stopping = true;
    if (!this.#id) return this.#retryNow === undefined;
    const response = await request(`/api/chat-stream/${this.#id}`, { method: 'DELETE' }).catch(
      () => undefined,
    );
    this.#retryNow?.();
    return response?.ok ?? false;
  }

  async #connect(signal) {
    const response = await (this.#id ? this.#resume(signal) : this.#send(signal));
    if (response.ok) {
      this.#id = response.headers.get('x-stream-id') ?? this.#id;
      if (this.#stopping) void this.stop();
      return response;
    }
    const problem = await problemOf(response);
    if (this.#id === undefined) throw new ChatError('failed', problem);
    // Can be resumed with another key.
    if (response.status === 401) throw new ChatError('cutOff', problem);
    // Not before Retry-After.
    if (problem.retry_after) this.#retryMs = Math.max(this.#retryMs, problem.retry_after * 1000);
    if (!TEMPORARY.includes(response.status)) throw new ChatError('failed', problem);
    throw new Error(problem.detail);
  }

  #send(signal) {
    const headers = {
      'content-type': 'application/json',
      accept: 'text/event-stream',
      'idempotency-key': this.#key,
    };
    return request('/api/chat-stream', { method: 'POST', headers, body: this.#body, signal });
  }

  #resume(signal) {
    const from = this.#lastEventId ? { 'last-event-id': this.#lastEventId } : {};
    const headers = { accept: 'text/event-stream', ...from };
    return request(`/api/chat-stream/${this.#id}`, { headers, cache: 'no-store', signal });
  }

  /** Ends early when the network is back. */
  async #pause(ms, signal) {
    await new Promise((resolve, reject) => {
      setTimeout(resolve, ms);
      this.#retryNow = resolve;
      addEventListener('online', resolve, { once: true, signal });
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
    this.#retryNow = undefined;
  }
}
