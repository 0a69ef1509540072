import { setText } from '../i18n.js';

const FINISH = {
  stop: 'finishStop',
  length: 'finishLength',
  content_filter: 'finishFilter',
  cancelled: 'finishCancelled',
  error: 'finishError',
};

/** More specific texts for failed requests. */
const STATUS_TEXTS = { 401: 'unauthorized', 403: 'keyScope', 429: 'keyLimited' };

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

  /** @param resume the action of the resume button; falsy: no button */
  failed(error, resume) {
    this.#end('failed');
    const { key, problem } = error;
    const box = element('div', 'error');
    this.#error = box;
    const text = (key === 'failed' && STATUS_TEXTS[problem.status]) || key;
    const values = { status: problem?.status ?? '', seconds: problem?.retry_after };
    box.append(setText(element('strong', ''), text, values));
    if (problem) {
      const detail = element('p', '');
      detail.textContent = problem.detail;
      box.append(detail);
    }
    if (resume) box.append(button('resume', resume));
    this.#meta.before(box);
    if (problem?.code) this.#part().textContent = problem.code;
    if (problem?.request_id) this.#note('requestId', { id: problem.request_id });
    if (problem?.retry_after) this.#note('retryAfter', { seconds: problem.retry_after });
  }

  #end(state) {
    this.#box.dataset.state = state;
    this.#text.hidden = this.#node.data === '';
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
