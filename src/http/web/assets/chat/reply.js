import { setText } from '../i18n.js';
import { ERRORS } from '../strings.js';

const FINISH = {
  stop: 'finishStop',
  length: 'finishLength',
  content_filter: 'finishFilter',
  cancelled: 'finishCancelled',
  error: 'finishError',
};

/** Codes whose `detail` names what to change. It is English, so the others are shown by their code only. */
const DETAILED = ['validation', 'upstream_error', 'upstream_rejected'];

/** A new element. Text from the server is only set as text, never as HTML. */
export function element(name, className) {
  const made = document.createElement(name);
  made.className = className;
  return made;
}

function button(key, action) {
  const made = setText(element('button', key), key);
  made.type = 'button';
  made.addEventListener('click', action);
  return made;
}

/** What a problem means: by its code in the language of the page, else in the words of the server. */
function explain({ code, title, detail }) {
  const isKnown = Object.hasOwn(ERRORS, code);
  const parts = isKnown ? [setText(element('p', ''), code)] : [];
  if (detail && (!isKnown || (DETAILED.includes(code) && detail !== title))) {
    const part = element('p', 'detail');
    part.lang = 'en';
    part.textContent = detail;
    parts.push(part);
  }
  return parts;
}

/** An error with the key of its text and, where the server sent one, a problem document. */
export class ChatError extends Error {
  constructor(key, problem) {
    super(problem?.detail ?? key);
    this.key = key;
    this.problem = problem;
  }
}

/** One reply in the log. */
export class Reply {
  #box = element('article', 'reply');
  #text = element('p', 'text');
  #node = document.createTextNode('');
  #meta = element('p', 'meta');
  #error;
  cached = false;

  constructor(log) {
    this.#text.append(this.#node);
    this.#box.append(setText(element('h3', 'hidden'), 'assistant'), this.#text, this.#meta);
    log.append(this.#box);
  }

  get hasText() {
    return this.#node.data !== '';
  }

  /** For another attempt. */
  clear() {
    this.#node.data = '';
    this.cached = false;
  }

  /** Shows that the reply is being read, the first time or after a resume. */
  reading() {
    this.#error?.remove();
    this.#text.hidden = false;
    this.#box.dataset.state = 'streaming';
    setText(this.#meta, 'waiting');
  }

  lost(seconds) {
    setText(this.#meta, 'lost', { seconds });
  }

  add(text) {
    this.#node.appendData(text);
    setText(this.#meta, 'waiting');
  }

  done({ finish_reason, usage, persisted }) {
    this.#end(finish_reason === 'cancelled' ? 'stopped' : 'done');
    this.#note(FINISH[finish_reason] ?? 'unknown');
    this.#note(this.cached ? 'cached' : 'fresh');
    if (usage) this.#note('usage', { prompt: usage.prompt_tokens, completion: usage.completion_tokens });
    if (persisted === false) this.#note('unsaved');
  }

  stopped() {
    this.#end('stopped');
    this.#note('stopped');
  }

  /**
   * The same fault looks the same, whether it came as the status of the response or as an event.
   * @param label of a button with this action; undefined: no button
   */
  failed({ key, problem }, label, action) {
    this.#end('failed');
    const box = element('div', 'error');
    this.#error = box;
    const title = key === 'failed' && this.hasText ? 'brokenOff' : key;
    box.append(setText(element('strong', ''), title, { status: problem?.status ?? '' }));
    if (problem) box.append(...explain(problem));
    if (label) box.append(button(label, action));
    this.#meta.before(box);
    if (problem?.code) this.#part().textContent = problem.code;
    if (problem?.request_id) this.#note('requestId', { id: problem.request_id });
    if (problem?.retry_after) this.#note('retryAfter', { seconds: problem.retry_after });
  }

  #end(state) {
    this.#box.dataset.state = state;
    this.#text.hidden = !this.hasText;
    delete this.#meta.dataset.t;
    this.#meta.textContent = '';
  }

  #note(key, values) {
    setText(this.#part(), key, values);
  }

  #part() {
    const part = element('span', '');
    this.#meta.append(part);
    return part;
  }
}
