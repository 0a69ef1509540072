import { pathOf, readConversation } from '../conversations/api.js';
import { setText } from '../i18n.js';
import { Composer } from './composer.js';
import { Log } from './log.js';
import { ChatError, errorBox } from './problem.js';
import { Question, textOf } from './question.js';
import { foldedMessage, Reply } from './reply.js';
import { Settings } from './settings.js';
import { keepPending, newKey, pendingQuestion, ReplyStream } from './stream.js';

const find = (id) => document.getElementById(id);

/** Something else than the page uses Esc. */
const ESCAPABLE = 'dialog[open], :popover-open, .sidebar.open';

/** The chat box, with one conversation and one reply at a time. */
class Chat {
  #box = find('log');
  #log = new Log(this.#box, find('jump'));
  #empty = find('empty');
  #composer = new Composer(() => this.#submit());
  #settings = new Settings();
  #record = find('record');
  #conversation;
  /** The stream of the running reply, and the controller that aborts reading it. */
  #stream;
  #reading;
  /** Aborts the loading of a conversation. */
  #opening;
  /** The last question while it has no text of a reply: sending it again repeats it, with its idempotency key. */
  #unanswered;
  /** What the running reply replaces, until it has text. */
  #replaced = [];
  #actions = {
    onGrow: () => this.#log.follow(),
    onRegenerate: (reply) => this.#regenerate(reply),
  };
  #page;

  constructor(page) {
    this.#page = page;
  }

  listen() {
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
    this.#composer.focus();
  }

  /** Shows a conversation and resumes its running reply. undefined: a new conversation. */
  async open(id) {
    this.#leave();
    this.#remember(id);
    this.#settings.show(undefined);
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

  /** The server still generates a reply that is no longer read. */
  #leave() {
    this.#opening?.abort();
    this.#opening = undefined;
    if (this.#reading) {
      keepPending(undefined);
      this.#reading.abort();
      this.#busy(undefined);
    }
    this.#unanswered = undefined;
    this.#replaced = [];
    this.#box.replaceChildren(this.#empty);
    this.#log.toEnd();
  }

  #showAll(conversation) {
    const { messages } = conversation;
    this.#page.onRead(conversation);
    this.#settings.show(conversation);
    for (const message of messages) {
      if (message.role === 'user') this.#addQuestion(message.parts ?? message.content, message.id);
      else if (message.role !== 'assistant') this.#log.append(foldedMessage(message));
      else if (message.status !== 'streaming') this.#log.append(Reply.of(message, this.#actions).box);
    }
    const last = messages.at(-1);
    if (last?.status === 'streaming') void this.#show(ReplyStream.resume(last.id), this.#newReply());
    else void this.#resumePending(last);
  }

  /** The question that was sent before a reload and has no text of a reply yet; its key makes the server do it once. */
  async #resumePending(last) {
    const question = pendingQuestion();
    if (!question || question.body.conversation_id !== this.#conversation) return keepPending(undefined);
    const { message, edit, regenerate } = question.body;
    this.#unanswered = question;
    this.#empty.remove();
    const isShown = last?.role === 'user' && last.content === textOf(message ?? '');
    if (message && !isShown) this.#addQuestion(message);
    await this.#show(new ReplyStream(question), this.#newReply(), question);
    // The messages that it has replaced are still shown.
    if ((edit ?? regenerate) && this.#conversation === question.body.conversation_id && !this.#reading)
      await this.open(this.#conversation);
  }

  #submit() {
    const { message } = this.#composer;
    if (message === undefined) return;
    if (this.#isBusy()) return;
    this.#composer.message = undefined;
    void this.#ask(message);
  }

  /** Says so when a reply is running. */
  #isBusy() {
    const isBusy = (this.#reading ?? this.#opening) !== undefined;
    if (isBusy) this.#composer.hint('busyHint');
    return isBusy;
  }

  /** The second time, or when the server cannot be notified, it only stops reading. */
  async #stop() {
    const [stop, reading] = [find('stop'), this.#reading];
    const isRepeated = stop.dataset.t === 'stopping';
    setText(stop, 'stopping');
    if (isRepeated || !(await this.#stream.stop())) reading.abort();
  }

  async #ask(message) {
    if (this.#isBusy()) return;
    const isNew = this.#conversation === undefined;
    const body = { message, ...this.#turn(), ...(isNew ? this.#settings.turn : {}) };
    const isRepeated = JSON.stringify(this.#unanswered?.body.message) === JSON.stringify(message);
    await this.#send(isRepeated ? this.#unanswered : { body, key: newKey() });
  }

  #turn() {
    return { conversation_id: this.#conversation, format: 'markdown', reasoning: true };
  }

  /** Sends a question. Its first text takes the place of the nodes that it replaces. */
  async #send(question, replaced = []) {
    this.#unanswered = question;
    keepPending(question);
    this.#empty.remove();
    // Repeating an earlier question would change what came before later ones.
    for (const button of this.#box.querySelectorAll('.retry')) button.remove();
    for (const node of replaced) node.hidden = true;
    this.#replaced = replaced;
    if (question.body.message) this.#addQuestion(question.body.message);
    this.#log.toEnd();
    await this.#show(new ReplyStream(question), this.#newReply(), question);
    this.#log.follow();
  }

  /** The old reply stays until the new one has text. */
  async #regenerate(reply) {
    if (this.#isBusy()) return;
    const body = { regenerate: reply.id, ...this.#turn() };
    await this.#send({ body, key: newKey() }, this.#from(reply.box));
  }

  async #edit(question, message) {
    if (this.#isBusy()) return;
    try {
      const body = { edit: await this.#idOf(question), message, ...this.#turn() };
      await this.#send({ body, key: newKey() }, this.#from(question.box));
    } catch (error) {
      this.#log.append(errorBox(error));
    }
  }

  #from(box) {
    const nodes = [...this.#box.children];
    return nodes.slice(nodes.indexOf(box));
  }

  /** The stream of a reply does not name its question, so its id is looked up. */
  async #idOf(question) {
    if (question.id) return question.id;
    const { messages } = await readConversation(this.#conversation);
    const replyId = question.box.nextElementSibling?.dataset.id;
    const at = replyId ? messages.findIndex(({ id }) => id === replyId) : messages.length;
    question.id = messages.slice(0, at).findLast(({ role }) => role === 'user')?.id;
    return question.id;
  }

  /** Reads the reply to its end, from the start or from where it was interrupted. */
  async #show(stream, reply, question) {
    if (this.#reading) return;
    const reading = new AbortController();
    reply.reading();
    this.#busy(reading, stream);
    try {
      await this.#settings.saved;
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
    else if (
      question &&
      (reply.hasOutput || this.#composer.message !== undefined || this.#replaced.length > 0)
    )
      reply.failed(error, 'retry', () => this.#retry(reply, question));
    else {
      reply.failed(error);
      if (question?.body.message) this.#composer.message = question.body.message;
    }
    for (const node of this.#replaced) node.hidden = false;
  }

  /** With the same key, so that the question is stored once and the new reply replaces what came of the first. */
  async #retry(reply, question) {
    if (this.#reading) return;
    this.#unanswered = question;
    for (const node of this.#replaced) node.hidden = true;
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
    if (body.reasoning) reply.think(body.reasoning);
    if (body.content || body.reasoning || type === 'done') {
      this.#unanswered = undefined;
      keepPending(undefined);
      for (const node of this.#replaced.splice(0)) node.remove();
    }
    if (type === 'start') {
      if (!body.offset) reply.clearReasoning();
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
    if (isNew && Object.keys(this.#settings.turn).length > 0) this.#settings.save(id);
    else if (isNew) this.#settings.show({ conversation_id: id });
  }

  #addQuestion(message, id) {
    this.#log.append(new Question(message, (question, edited) => this.#edit(question, edited), id).box);
  }

  #newReply() {
    const reply = new Reply(this.#actions);
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
    this.#composer.hint(reading ? 'stopHint' : 'hint');
    if (hadFocus) this.#composer.focus();
  }
}

/** @param page `onTurn(conversation, isNew)`, `onRead(conversation)`, `onConnectionLost()` */
export function startChat(page) {
  const chat = new Chat(page);
  chat.listen();
  return chat;
}
