import { say } from '../i18n.js';
import { ChatError, element, Reply } from './reply.js';
import { newKey, ReplyStream } from './stream.js';

/** How near to its end a log counts as read to the end, pixels; then it follows what comes. */
const NEAR_END_PX = 40;

const find = (id) => document.getElementById(id);

/** The chat box: one conversation at a time, one reply at a time. */
class Chat {
  #log = find('log');
  #empty = find('empty');
  #input = find('message');
  #record = find('record');
  #conversation;
  /** Of the running reply: its stream, and what aborts the reading. */
  #stream;
  #reading;
  /** The question that got no answer, with its key: sent again it is still the same question. */
  #unanswered;
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
    find('stop').addEventListener('click', () => this.#stop());
    find('renew').addEventListener('click', () => {
      this.renew();
      this.focus();
    });
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

  /** Asked a second time, or when the server cannot be told, it only stops reading. */
  async #stop() {
    const [stop, reading] = [find('stop'), this.#reading];
    const again = stop.dataset.t === 'stopping';
    say(stop, 'stopping');
    if (again || !(await this.#stream.stop())) reading.abort();
  }

  focus() {
    this.#input.focus();
  }

  /** Leaves the conversation for a new one. */
  renew() {
    this.#reading?.abort();
    this.#unanswered = undefined;
    this.#remember(undefined);
    this.#log.replaceChildren(this.#empty);
  }

  async #ask(message) {
    if (this.#reading) return;
    const body = { message, conversation_id: this.#conversation, format: 'text' };
    const key = this.#unanswered?.message === message ? this.#unanswered.key : newKey();
    this.#unanswered = { message, key };
    this.#empty.remove();
    this.#addQuestion(message);
    await this.#show(new ReplyStream(body, key), new Reply(this.#log), message);
  }

  /** Reads the reply to its end, or goes on with it. */
  async #show(stream, reply, message) {
    if (this.#reading) return;
    const reading = new AbortController();
    this.#following = true;
    reply.reading();
    this.#busy(reading, stream);
    try {
      await this.#read(stream, reply, reading.signal);
    } catch (error) {
      if (reading.signal.aborted) reply.stopped();
      else this.#fail(stream, reply, error, message);
    }
    if (this.#reading === reading) this.#busy(undefined);
    this.#follow();
  }

  #fail(stream, reply, error, message) {
    reply.failed(error, error.key === 'cutOff' && (() => this.#show(stream, reply, message)));
    // What was not answered at all nobody should have to write twice.
    if (this.#input.value === '' && ['failed', 'unreachable'].includes(error.key))
      this.#input.value = message;
  }

  async #read(stream, reply, signal) {
    for await (const { type, data } of stream.events(signal, (seconds) => reply.lost(seconds))) {
      signal.throwIfAborted();
      if (this.#take(reply, type, JSON.parse(data))) return;
    }
  }

  /** @returns whether this event was the last */
  #take(reply, type, body) {
    reply.add(body.content);
    if (type === 'start') {
      this.#unanswered = undefined;
      this.#remember(body.conversation_id);
      reply.cached ||= body.cached;
    }
    if (type === 'error') throw new ChatError('brokenOff', body);
    if (type === 'done') reply.done(body);
    this.#follow();
    return type === 'done';
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
  #busy(reading, stream) {
    this.#reading = reading;
    this.#stream = stream;
    const [send, stop] = [find('send'), find('stop')];
    const onThem = [send, stop, document.body].includes(document.activeElement);
    this.#log.setAttribute('aria-busy', String(reading !== undefined));
    send.hidden = reading !== undefined;
    stop.hidden = reading === undefined;
    say(stop, 'stop');
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
  const chat = new Chat();
  chat.listen();
  return chat;
}
