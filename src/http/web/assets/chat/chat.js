import { setText } from '../i18n.js';
import { ChatError, element, Reply } from './reply.js';
import { newKey, ReplyStream } from './stream.js';

/** The log follows new text while it is scrolled at most this far from its end, pixels. */
const NEAR_END_PX = 40;

const find = (id) => document.getElementById(id);

const streamOf = ({ body, key }) => new ReplyStream(body, key);

/** The chat box, with one conversation and one reply at a time. */
class Chat {
  #log = find('log');
  #empty = find('empty');
  #input = find('message');
  #record = find('record');
  #conversation;
  /** The stream of the running reply, and the controller that aborts reading it. */
  #stream;
  #reading;
  /** The last question while it has no text of a reply: sending it again repeats it, with its idempotency key. */
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
      // Safari ends the composition before this event. Its key code 229 marks keys of the IME.
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

  /** The second time, or when the server cannot be notified, it only stops reading. */
  async #stop() {
    const [stop, reading] = [find('stop'), this.#reading];
    const isRepeated = stop.dataset.t === 'stopping';
    setText(stop, 'stopping');
    if (isRepeated || !(await this.#stream.stop())) reading.abort();
  }

  focus() {
    this.#input.focus();
  }

  /** Starts a new conversation. */
  renew() {
    this.#reading?.abort();
    this.#unanswered = undefined;
    this.#remember(undefined);
    this.#log.replaceChildren(this.#empty);
  }

  async #ask(message) {
    if (this.#reading) return;
    const body = { message, conversation_id: this.#conversation, format: 'text' };
    const isRepeated = this.#unanswered?.body.message === message;
    const question = isRepeated ? this.#unanswered : { body, key: newKey() };
    this.#unanswered = question;
    this.#empty.remove();
    // Repeating an earlier question would change what came before later ones.
    for (const button of this.#log.querySelectorAll('.retry')) button.remove();
    this.#addQuestion(message);
    await this.#show(streamOf(question), new Reply(this.#log), question);
  }

  /** Reads the reply to its end, from the start or from where it was interrupted. */
  async #show(stream, reply, question) {
    if (this.#reading) return;
    const reading = new AbortController();
    this.#following = true;
    reply.reading();
    this.#busy(reading, stream);
    try {
      await this.#read(stream, reply, reading.signal);
    } catch (error) {
      if (reading.signal.aborted) reply.stopped();
      else this.#fail(stream, reply, error, question);
    }
    if (this.#reading === reading) this.#busy(undefined);
    this.#follow();
  }

  /** A question without text of a reply goes back to the input; any other can be repeated by a button. */
  #fail(stream, reply, error, question) {
    if (error.key === 'cutOff') reply.failed(error, 'resume', () => this.#show(stream, reply, question));
    else if (reply.hasText || this.#input.value !== '')
      reply.failed(error, 'retry', () => this.#retry(reply, question));
    else {
      reply.failed(error);
      this.#input.value = question.body.message;
    }
  }

  /** With the same key, so that the question is stored once and the new reply replaces what came of the first. */
  async #retry(reply, question) {
    if (this.#reading) return;
    this.#unanswered = question;
    reply.clear();
    await this.#show(streamOf(question), reply, question);
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
    if (body.content || type === 'done') this.#unanswered = undefined;
    if (type === 'start') {
      this.#remember(body.conversation_id);
      reply.cached ||= body.cached;
    }
    if (type === 'error') throw new ChatError('failed', body);
    if (type === 'done') reply.done(body);
    this.#follow();
    return type === 'done';
  }

  #addQuestion(message) {
    const box = element('article', 'question');
    const text = element('p', 'text');
    text.textContent = message;
    box.append(setText(element('h3', 'hidden'), 'you'), text);
    this.#log.append(box);
  }

  #remember(conversation) {
    this.#conversation = conversation;
    this.#record.hidden = conversation === undefined;
    if (conversation === undefined) return;
    this.#record.href = `/api/conversations/${conversation}`;
    this.#record.textContent = `…${conversation.slice(-8)}`;
  }

  /** Swaps the send and stop buttons. When one had the focus, the input gets it. */
  #busy(reading, stream) {
    this.#reading = reading;
    this.#stream = stream;
    const [send, stop] = [find('send'), find('stop')];
    const hadFocus = [send, stop, document.body].includes(document.activeElement);
    this.#log.setAttribute('aria-busy', String(reading !== undefined));
    send.hidden = reading !== undefined;
    stop.hidden = reading === undefined;
    setText(stop, 'stop');
    if (hadFocus) this.#input.focus();
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#log;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  /** Scrolls to the end once per frame, unless the user has scrolled back. */
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
