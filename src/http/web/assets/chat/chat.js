import { pathOf, readMessages } from '../conversations/api.js';
import { urlOf } from '../credentials.js';
import { setText } from '../i18n.js';
import { Replacement } from '../replies/replacement.js';
import { Reply } from '../replies/reply.js';
import { foldedMessage } from '../replies/tools.js';
import { Composer } from './composer.js';
import { Log } from './log.js';
import { OlderMessages } from './older.js';
import { ChatError, errorBox } from './problem.js';
import { Question, textOf } from './question.js';
import { Settings } from './settings.js';
import { keepPending, newKey, pendingQuestion, ReplyStream } from './stream.js';

const find = (id) => document.getElementById(id);

/** `/?api=v1`: the page sends as a client of OpenAI's API. That has no `regenerate` and no `edit`. */
const openAi = new URLSearchParams(location.search).get('api') === 'v1' && (await import('./openai.js'));

function streamOf(question) {
  const isRevision = question.body.edit ?? question.body.regenerate;
  return openAi && !isRevision ? new openAi.OpenAiStream(question) : new ReplyStream(question);
}

/** While one of these is open, Esc closes it. */
const ESCAPABLE = 'dialog[open], :popover-open, .sidebar.open';

/** The chat box, with one conversation and one reply at a time. */
class Chat {
  #box = find('log');
  #log = new Log(this.#box, find('jump'));
  #older = new OlderMessages(this.#log, (message) => this.#boxOf(message));
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
  #replacement = new Replacement();
  /** The newest question. */
  #question;
  #actions = {
    onGrow: () => this.#log.follow(),
    onRegenerate: ({ id, box }) => this.#regenerate(id, box),
    onResults: (results, form) => this.#giveResults(results, form),
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
      this.#showAll(await readMessages(id, undefined, opening.signal));
    } catch (error) {
      if (!opening.signal.aborted) this.#log.append(errorBox(error));
    }
    if (this.#opening !== opening) return;
    this.#opening = undefined;
    if (!this.#reading) this.#box.ariaBusy = 'false';
  }

  /** Loads the conversation again when it has a message that is not shown, for example from another tab. */
  refresh({ conversation_id: id, last_message: last }) {
    if ((this.#reading ?? this.#opening) || this.#conversation !== id) return;
    const isShown = !last || this.#box.querySelector(`[data-id="${last.id}"]`) !== null;
    // What is being edited would be lost.
    const isEdited = [...this.#box.querySelectorAll('textarea')].some(({ value }) => value !== '');
    if (!isShown && !isEdited) void this.open(id);
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
    this.#older.stop();
    this.#unanswered = undefined;
    this.#replacement.begin();
    this.#question = undefined;
    this.#box.replaceChildren(this.#empty);
    this.#log.toEnd();
  }

  #showAll(conversation) {
    const { messages } = conversation;
    this.#page.onRead(conversation);
    this.#settings.show(conversation);
    const last = messages.at(-1);
    const isStreaming = last?.status === 'streaming';
    const ended = isStreaming ? messages.slice(0, -1) : messages;
    const boxes = ended.map((message) => this.#boxOf(message, message === last));
    this.#log.addStored(() => this.#log.append(...boxes));
    this.#older.start(conversation.conversation_id, conversation);
    if (isStreaming) void this.#show(ReplyStream.resume(last.id), this.#newReply());
    else void this.#resumePending(last);
  }

  #boxOf(message, isLast = false) {
    if (message.role === 'user') return this.#newQuestion(message.parts ?? message.content, message).box;
    return message.role === 'assistant'
      ? Reply.of(message, this.#actions, isLast).box
      : foldedMessage(message);
  }

  /** The question that was sent before a reload and has no text of a reply yet; its key makes the server do it once. */
  async #resumePending(last) {
    const question = pendingQuestion();
    if (!question || question.body.conversation_id !== this.#conversation) {
      keepPending(undefined);
      return this.#offerReply(last);
    }
    const { message } = question.body;
    this.#unanswered = question;
    this.#empty.remove();
    const isShown = last?.role === 'user' && last.content === textOf(message ?? '');
    if (message && !isShown) this.#addQuestion(message);
    await this.#show(streamOf(question), this.#newReply(), question);
    // The replaced messages are still shown.
    if (
      (question.body.edit || !message) &&
      this.#conversation === question.body.conversation_id &&
      !this.#reading
    )
      await this.open(this.#conversation);
  }

  /** For a last message whose reply has failed before its first text. */
  #offerReply(last) {
    if (last?.role !== 'user' && last?.role !== 'tool') return;
    const reply = this.#newReply();
    reply.failed(new ChatError('noReply'), 'retry', () => this.#regenerate(last.id, reply.box));
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
    // It is stored once, so it is shown once.
    if (isRepeated && this.#question) for (const node of this.#from(this.#question.box)) node.remove();
    await this.#send(isRepeated ? this.#unanswered : { body, key: newKey() });
  }

  #turn() {
    return { conversation_id: this.#conversation, format: 'markdown', reasoning: true };
  }

  /**
   * Sends a question. Its first text takes the place of the nodes that it replaces.
   * @param results the boxes of the results of tools
   */
  async #send(question, replaced = [], results = []) {
    this.#unanswered = question;
    // Only the native routes do a request with the same key once.
    if (!openAi) keepPending(question);
    this.#empty.remove();
    // Repeating an earlier question would change what came before later ones.
    for (const button of this.#box.querySelectorAll('.retry')) button.remove();
    this.#replacement.begin(replaced, results);
    this.#log.append(...results);
    this.#replacement.show(true);
    if (question.body.message) this.#addQuestion(question.body.message);
    this.#log.toEnd();
    await this.#show(streamOf(question), this.#newReply(), question);
    this.#log.follow();
  }

  /** The old reply stays until the new one has text. */
  async #regenerate(id, box) {
    if (this.#isBusy()) return;
    const body = { regenerate: id, ...this.#turn() };
    await this.#send({ body, key: newKey() }, this.#from(box));
  }

  async #edit({ id, box }, message) {
    if (this.#isBusy()) return;
    const body = { edit: id, message, ...this.#turn() };
    await this.#send({ body, key: newKey() }, this.#from(box));
  }

  /** The form is only hidden, because it is shown again when the request fails. */
  async #giveResults(results, form) {
    if (this.#isBusy()) return;
    const body = { tool_results: results, ...this.#turn() };
    const boxes = results.map(({ content }) => foldedMessage({ role: 'tool', content }));
    await this.#send({ body, key: newKey() }, [form], boxes);
  }

  #from(box) {
    const nodes = [...this.#box.children];
    return nodes.slice(nodes.indexOf(box));
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
    if (!(error.problem?.status < 500)) this.#page.onConnectionLost();
    if (error.key === 'cutOff') reply.failed(error, 'resume', () => this.#show(stream, reply, question));
    else if (
      question &&
      (reply.hasOutput || this.#composer.message !== undefined || !this.#replacement.isEmpty)
    )
      reply.failed(error, 'retry', () => this.#retry(reply, question));
    else {
      reply.failed(error);
      if (question?.body.message) this.#composer.message = question.body.message;
    }
    this.#replacement.show(false);
  }

  /** With the same key, so that the question is stored once and the new reply replaces what came of the first. */
  async #retry(reply, question) {
    if (this.#reading) return;
    this.#unanswered = question;
    this.#replacement.show(true);
    reply.clear();
    await this.#show(streamOf(question), reply, question);
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
      this.#replacement.commit();
      // Only the newest reply can get results.
      for (const form of this.#box.querySelectorAll('.results')) form.remove();
    }
    if (type === 'start') {
      if (!body.offset) reply.clearReasoning();
      reply.started(body);
      // After results of tools it is the id of another message, but then the question has its id already.
      if (this.#question) this.#question.id = body.question_id;
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

  #newQuestion(message, stored) {
    return new Question(message, (question, edited) => this.#edit(question, edited), stored);
  }

  #addQuestion(message) {
    this.#question = this.#newQuestion(message);
    this.#log.append(this.#question.box);
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
    this.#record.href = urlOf(pathOf(conversation));
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
