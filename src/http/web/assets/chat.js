import { say } from './i18n.js';
import { ChatError, element, Reply } from './reply.js';
import { readEvents } from './sse.js';

/** How near to its end a log counts as read to the end, pixels; then it follows what comes. */
const NEAR_END_PX = 40;

const find = (id) => document.getElementById(id);

async function problemOf(response) {
  const known = {
    status: response.status,
    detail: response.statusText,
    request_id: response.headers.get('x-request-id'),
    retry_after: response.headers.get('retry-after'),
  };
  return { ...known, ...(await response.json().catch(() => ({}))) };
}

/** The chat box: one conversation at a time, one reply at a time. */
class Chat {
  #log = find('log');
  #empty = find('empty');
  #input = find('message');
  #record = find('record');
  #conversation;
  /** Aborts the reading of the running reply. */
  #reading;
  #following = true;
  #frame;

  listen() {
    this.#log.addEventListener('scroll', () => {
      this.#following = this.#atEnd();
    });
    find('form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#input.addEventListener('keydown', (event) => {
      // Safari ends the composition before this event; 229 is how it still says that the key was the IME's.
      const composing = event.isComposing || event.keyCode === 229;
      if (event.key !== 'Enter' || event.shiftKey || composing) return;
      event.preventDefault();
      this.#submit();
    });
    find('stop').addEventListener('click', () => this.#reading?.abort());
    find('renew').addEventListener('click', () => this.#renew());
    for (const sample of document.querySelectorAll('.sample')) {
      sample.addEventListener('click', () => this.#ask(sample.textContent));
    }
  }

  #submit() {
    const message = this.#input.value;
    if (message.trim() === '' || this.#reading) return;
    this.#input.value = '';
    void this.#ask(message);
  }

  #renew() {
    this.#reading?.abort();
    this.#remember(undefined);
    this.#log.replaceChildren(this.#empty);
    this.#input.focus();
  }

  async #ask(message) {
    if (this.#reading) return;
    const reading = new AbortController();
    this.#empty.remove();
    this.#addQuestion(message);
    const reply = new Reply(this.#log);
    this.#following = true;
    this.#busy(reading);
    try {
      await this.#read(message, reply, reading.signal);
    } catch (error) {
      if (reading.signal.aborted) reply.stopped();
      else this.#fail(reply, error, message);
    }
    if (this.#reading === reading) this.#busy(undefined);
    this.#follow();
  }

  #fail(reply, error, message) {
    reply.failed(error);
    // What was not answered at all nobody should have to write twice.
    if (this.#input.value === '' && ['failed', 'unreachable'].includes(error.key))
      this.#input.value = message;
  }

  async #read(message, reply, signal) {
    const response = await this.#post(
      { message, conversation_id: this.#conversation, format: 'text' },
      signal,
    );
    try {
      for await (const { type, data } of readEvents(response)) {
        signal.throwIfAborted();
        if (this.#take(reply, type, JSON.parse(data))) return;
      }
    } catch (error) {
      throw error instanceof ChatError ? error : new ChatError('cutOff');
    }
    throw new ChatError('cutOff');
  }

  /** @returns whether this event was the last */
  #take(reply, type, body) {
    reply.add(body.content);
    if (type === 'start') {
      this.#remember(body.conversation_id);
      reply.cached = body.cached;
    }
    if (type === 'error') throw new ChatError('brokenOff', body);
    if (type === 'done') reply.done(body);
    this.#follow();
    return type === 'done';
  }

  async #post(body, signal) {
    const headers = { 'content-type': 'application/json', accept: 'text/event-stream' };
    const options = { method: 'POST', headers, body: JSON.stringify(body), signal };
    const response = await fetch('/api/chat-stream', options).catch(() => {
      throw new ChatError('unreachable');
    });
    if (response.ok) return response;
    throw new ChatError('failed', await problemOf(response));
  }

  #addQuestion(message) {
    const box = element('article', 'question');
    const text = element('p', 'text');
    text.textContent = message;
    box.append(say(element('h3', 'hidden'), 'you'), text);
    this.#log.append(box);
  }

  #remember(conversation) {
    this.#conversation = conversation;
    this.#record.hidden = conversation === undefined;
    if (conversation === undefined) return;
    this.#record.href = `/api/conversations/${conversation}`;
    this.#record.textContent = `…${conversation.slice(-8)}`;
  }

  /** Of two buttons one stands at the same place; the focus must not fall off the one that goes. */
  #busy(reading) {
    this.#reading = reading;
    const [send, stop] = [find('send'), find('stop')];
    const onThem = [send, stop, document.body].includes(document.activeElement);
    this.#log.setAttribute('aria-busy', String(reading !== undefined));
    send.hidden = reading !== undefined;
    stop.hidden = reading === undefined;
    if (onThem) this.#input.focus();
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#log;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  /** Shows the end of the log, once a frame, unless the reader has scrolled back. */
  #follow() {
    if (!this.#following || this.#frame !== undefined) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = undefined;
      if (this.#following) this.#log.scrollTop = this.#log.scrollHeight;
    });
  }
}

export function startChat() {
  new Chat().listen();
}
