import { pathOf, readConversation } from '../conversations/api.js';
import { setText } from '../i18n.js';
import { Log } from './log.js';
import { ChatError, errorBox } from './problem.js';
import { Question } from './question.js';
import { Reply } from './reply.js';
import { keepPending, newKey, pendingQuestion, ReplyStream } from './stream.js';

const find = (id) => document.getElementById(id);

/** Something else than the page uses Esc. */
const ESCAPABLE = 'dialog[open], :popover-open, .sidebar.open';

/** The chat box, with one conversation and one reply at a time. */
class Chat {
  #box = find('log');
  #log = new Log(this.#box, find('jump'));
  #empty = find('empty');
  #input = find('message');
  #record = find('record');
  #conversation;
  /** The stream of the running reply, and the controller that aborts reading it. */
  #stream;
  #reading;
  /** Aborts the loading of a conversation. */
  #opening;
  /** The last question while it has no text of a reply: sending it again repeats it, with its idempotency key. */
  #unanswered;
  #page;

  constructor(page) {
    this.#page = page;
  }

  listen() {
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
    document.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || event.isComposing || event.defaultPrevented || !this.#reading) return;
      if (document.querySelector(ESCAPABLE) === null) void this.#stop();
    });
    find('stop').addEventListener('click', () => this.#stop());
    for (const sample of document.querySelectorAll('.sample')) {
      sample.addEventListener('click', () => this.#ask(sample.textContent));
    }
  }

  get hasMessages() {
    return this.#box.querySelector('.question, .reply') !== null;
  }

  focus() {
    this.#input.focus();
  }

  /** Shows a conversation and resumes its running reply. undefined: a new conversation. */
  async open(id) {
    this.#leave();
    this.#remember(id);
    if (id === undefined) return this.#resumePending();
    const opening = new AbortController();
    this.#opening = opening;
    this.#empty.remove();
    this.#box.ariaBusy = 'true';
    try {
      this.#showAll(await readConversation(id, opening.signal));
    } catch (error) {
      if (!opening.signal.aborted) this.#log.append(errorBox(error));
    }
    if (this.#opening !== opening) return;
    this.#opening = undefined;
    if (!this.#reading) this.#box.ariaBusy = 'false';
  }

  /** A reply that is being read goes on at the server. */
  #leave() {
    this.#opening?.abort();
    this.#opening = undefined;
    if (this.#reading) {
      keepPending(undefined);
      this.#reading.abort();
      this.#busy(undefined);
    }
    this.#unanswered = undefined;
    this.#box.replaceChildren(this.#empty);
    this.#log.toEnd();
  }

  #showAll({ messages, title }) {
    this.#page.onRead({ conversation_id: this.#conversation, title });
    for (const message of messages) {
      if (message.role === 'user') this.#log.append(new Question(message).box);
      else if (message.role === 'assistant' && message.status !== 'streaming')
        this.#log.append(Reply.of(message, () => this.#log.follow()).box);
    }
    const last = messages.at(-1);
    if (last?.status === 'streaming') void this.#show(ReplyStream.resume(last.id), this.#newReply());
    else this.#resumePending(last);
  }

  /** The question that was sent before a reload and has no text of a reply yet; its key makes the server do it once. */
  #resumePending(last) {
    const question = pendingQuestion();
    if (!question || question.body.conversation_id !== this.#conversation) return keepPending(undefined);
    this.#unanswered = question;
    this.#empty.remove();
    if (last?.role !== 'user' || last.content !== question.body.message) this.#addQuestion(question.body);
    void this.#show(new ReplyStream(question), this.#newReply(), question);
  }

  #submit() {
    const message = this.#input.value;
    if (message.trim() === '') return;
    if (this.#reading || this.#opening) {
      setText(find('hint'), 'busyHint');
      return;
    }
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

  async #ask(message) {
    if (this.#reading || this.#opening) return;
    const body = { message, conversation_id: this.#conversation, format: 'markdown' };
    const isRepeated = this.#unanswered?.body.message === message;
    const question = isRepeated ? this.#unanswered : { body, key: newKey() };
    this.#unanswered = question;
    keepPending(question);
    this.#empty.remove();
    // Repeating an earlier question would change what came before later ones.
    for (const button of this.#box.querySelectorAll('.retry')) button.remove();
    this.#addQuestion(body);
    this.#log.toEnd();
    await this.#show(new ReplyStream(question), this.#newReply(), question);
  }

  /** Reads the reply to its end, from the start or from where it was interrupted. */
  async #show(stream, reply, question) {
    if (this.#reading) return;
    const reading = new AbortController();
    reply.reading();
    this.#busy(reading, stream);
    try {
      await this.#read(stream, reply, reading.signal);
    } catch (error) {
      if (this.#reading !== reading) return;
      if (reading.signal.aborted) reply.stopped();
      else this.#fail(stream, reply, error, question);
    }
    if (this.#reading === reading) this.#busy(undefined);
    this.#log.follow();
  }

  /** A question without text of a reply goes back to the input; any other can be repeated by a button. */
  #fail(stream, reply, error, question) {
    keepPending(undefined);
    if (!error.problem) this.#page.onConnectionLost();
    if (error.key === 'cutOff') reply.failed(error, 'resume', () => this.#show(stream, reply, question));
    else if (question && (reply.hasText || this.#input.value !== ''))
      reply.failed(error, 'retry', () => this.#retry(reply, question));
    else {
      reply.failed(error);
      if (question) this.#input.value = question.body.message;
    }
  }

  /** With the same key, so that the question is stored once and the new reply replaces what came of the first. */
  async #retry(reply, question) {
    if (this.#reading) return;
    this.#unanswered = question;
    reply.clear();
    await this.#show(new ReplyStream(question), reply, question);
  }

  async #read(stream, reply, signal) {
    const onLost = (seconds) => {
      reply.lost(seconds);
      this.#page.onConnectionLost();
    };
    for await (const { type, data } of stream.events(signal, onLost)) {
      signal.throwIfAborted();
      if (this.#take(reply, type, JSON.parse(data))) return;
    }
  }

  /** @returns whether this event was the last */
  #take(reply, type, body) {
    reply.add(body.content);
    if (body.content || type === 'done') {
      this.#unanswered = undefined;
      keepPending(undefined);
    }
    if (type === 'start') {
      reply.started(body);
      this.#begun(body.conversation_id);
    }
    if (type === 'error') throw new ChatError('failed', body);
    if (type === 'done') reply.done(body);
    this.#log.follow();
    return type === 'done';
  }

  /** The conversation has a new message. */
  #begun(id) {
    const isNew = this.#conversation === undefined;
    this.#remember(id);
    const title = this.#box.querySelector('.question .text')?.textContent.trim().split('\n', 1)[0];
    this.#page.onTurn({ conversation_id: id, title }, isNew);
  }

  #addQuestion({ message }) {
    this.#log.append(new Question({ content: message }).box);
  }

  #newReply() {
    const reply = new Reply(() => this.#log.follow());
    this.#log.append(reply.box);
    return reply;
  }

  #remember(conversation) {
    this.#conversation = conversation;
    this.#record.hidden = conversation === undefined;
    if (conversation === undefined) return;
    this.#record.href = pathOf(conversation);
    this.#record.textContent = `…${conversation.slice(-8)}`;
  }

  /** Swaps the send and stop buttons. When one had the focus, the input gets it. */
  #busy(reading, stream) {
    this.#reading = reading;
    this.#stream = stream;
    const [send, stop] = [find('send'), find('stop')];
    const hadFocus = [send, stop, document.body].includes(document.activeElement);
    this.#box.ariaBusy = String(reading !== undefined);
    send.hidden = reading !== undefined;
    stop.hidden = reading === undefined;
    setText(stop, 'stop');
    setText(find('hint'), reading ? 'stopHint' : 'hint');
    if (hadFocus) this.#input.focus();
  }
}

/** @param page `onTurn(conversation, isNew)`, `onRead(conversation)`, `onConnectionLost()` */
export function startChat(page) {
  const chat = new Chat(page);
  chat.listen();
  return chat;
}
