import { button, copyButton, element, timeElement } from '../chat/dom.js';
import { errorBox } from '../chat/problem.js';
import { setText } from '../i18n.js';
import { feedbackOf } from './feedback.js';
import { MarkdownView } from './markdown.js';
import { folded, resultsForm, toolCall } from './tools.js';

const FINISH = {
  stop: 'finishStop',
  length: 'finishLength',
  content_filter: 'finishFilter',
  tool_calls: 'finishTools',
  cancelled: 'finishCancelled',
  error: 'finishError',
};
/** For messages that do not tell their finish_reason. */
const FINISH_BY_STATUS = { complete: 'stop', cancelled: 'cancelled', incomplete: 'error' };

/** Rendering takes at most this share of the time while text arrives. */
const RENDER_SHARE = 0.25;

/** One reply in the log. */
export class Reply {
  box = element('article', 'reply');
  /** Of the message, once it is known. */
  id;
  cached = false;
  #text = element('div', 'text');
  #view = new MarkdownView(this.#text);
  #content = '';
  #reasoning;
  #meta = element('div', 'meta');
  #model;
  #timestamp;
  #error;
  #frame;
  #notBefore = 0;
  #actions;

  /** @param actions `onGrow()`, when it has become taller, `onRegenerate(reply)`, and `onResults(results, form)` */
  constructor(actions) {
    this.#actions = actions;
    this.box.append(setText(element('h3', 'hidden'), 'assistant'), this.#text, this.#meta);
  }

  /** @param message a stored one that has ended; @param isLast of its conversation */
  static of(message, actions, isLast) {
    const reply = new Reply(actions);
    reply.started(message);
    reply.#timestamp = message.timestamp;
    if (message.reasoning) reply.think(message.reasoning);
    reply.add(message.content);
    reply.done({ finish_reason: FINISH_BY_STATUS[message.status], ...message }, isLast);
    return reply;
  }

  /** Text, reasoning or tool calls. */
  get hasOutput() {
    return this.hasText || this.#reasoning !== undefined;
  }

  get hasText() {
    return this.#content !== '';
  }

  /** For another attempt. */
  clear() {
    this.#content = '';
    this.#render();
    this.clearReasoning();
    this.cached = false;
  }

  /** Shows that the reply is being read, the first time or after a resume. */
  reading() {
    this.#error?.remove();
    this.#text.hidden = false;
    this.box.dataset.state = 'streaming';
    setText(this.#meta, 'waiting');
  }

  /** The server sends it again where it sends a stream from its start. */
  clearReasoning() {
    this.#reasoning?.remove();
    this.#reasoning = undefined;
  }

  /** Adds to the reasoning, which is folded. */
  think(text) {
    if (!this.#reasoning) {
      this.#reasoning = folded('reasoning', element('p'), 'thinking');
      this.#text.before(this.#reasoning);
    }
    this.#reasoning.lastChild.append(text);
    setText(this.#meta, 'thinking');
    this.#actions.onGrow();
  }

  started({ id, message_id, model, cached }) {
    this.id = message_id ?? id;
    this.box.dataset.id = this.id;
    this.#model = model ?? this.#model;
    this.cached ||= cached ?? false;
  }

  lost(seconds) {
    setText(this.#meta, 'lost', { seconds });
  }

  add(text) {
    if (!text) return;
    this.#content += text;
    setText(this.#meta, 'receiving');
    if (this.#reasoning) setText(this.#reasoning.firstChild, 'thought');
    this.#schedule();
  }

  /** @param isLast only then it can be given the results of tools */
  done({ finish_reason, usage, persisted, model, tool_calls = [], refusal, feedback }, isLast = true) {
    this.#end(finish_reason === 'cancelled' ? 'stopped' : 'done');
    this.#meta.before(...tool_calls.map(toolCall));
    this.#note(refusal ? 'refusal' : (FINISH[finish_reason] ?? 'unknown'));
    if (this.cached) this.#note('cached');
    if (model ?? this.#model) this.#part().append(model ?? this.#model);
    if (usage) this.#note('usage', { prompt: usage.prompt_tokens, completion: usage.completion_tokens });
    if (persisted === false) this.#note('unsaved');
    this.#part().append(timeElement(this.#timestamp ?? new Date().toISOString()));
    this.#addActions(feedback);
    if (!isLast || tool_calls.length === 0) return;
    const form = resultsForm(tool_calls, (results) => this.#actions.onResults(results, form));
    this.box.append(form);
  }

  stopped() {
    this.#end('stopped');
    this.#note('stopped');
    this.#addActions();
  }

  /**
   * The same fault looks the same, whether it came as the status of the response or as an event.
   * @param label of a button with this action; undefined: no button
   */
  failed(error, label, action) {
    this.#end('failed');
    const { key, problem } = error;
    this.#error = errorBox(error, key === 'failed' && this.hasOutput ? 'brokenOff' : key);
    if (label) this.#error.append(button(label, action));
    this.#meta.before(this.#error);
    if (problem?.code) this.#part().textContent = problem.code;
    if (problem?.request_id) this.#note('requestId', { id: problem.request_id });
    if (problem?.retry_after) this.#note('retryAfter', { seconds: problem.retry_after });
    this.#actions.onGrow();
  }

  #addActions(stored) {
    if (this.hasText) this.#meta.append(copyButton(() => this.#content));
    if (!this.id) return;
    const { buttons, form } = feedbackOf(this.id, stored);
    this.#meta.append(
      button('regenerate', () => this.#actions.onRegenerate(this)),
      ...buttons,
    );
    this.box.append(form);
  }

  #end(state) {
    cancelAnimationFrame(this.#frame);
    this.#render();
    this.box.dataset.state = state;
    this.#text.hidden = !this.hasText;
    if (this.#reasoning) setText(this.#reasoning.firstChild, 'thought');
    delete this.#meta.dataset.t;
    this.#meta.textContent = '';
  }

  /** Renders once per frame, and less often what takes long to render. */
  #schedule() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = undefined;
      if (performance.now() < this.#notBefore) this.#schedule();
      else this.#render();
    });
  }

  #render() {
    this.#frame = undefined;
    const start = performance.now();
    this.#view.show(this.#content);
    const end = performance.now();
    this.#notBefore = end + (end - start) * (1 / RENDER_SHARE - 1);
    this.#actions.onGrow();
  }

  #note(key, values) {
    setText(this.#part(), key, values);
  }

  #part() {
    const part = element('span');
    if (this.#meta.hasChildNodes()) this.#meta.append(' · ');
    this.#meta.append(part);
    return part;
  }
}
