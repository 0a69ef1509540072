import { say } from '../i18n.js';

const FINISH = {
  stop: 'finishStop',
  length: 'finishLength',
  content_filter: 'finishFilter',
  cancelled: 'finishCancelled',
  error: 'finishError',
};

/** What says more than that a request failed. */
const REFUSALS = { 401: 'unauthorized', 403: 'keyScope', 429: 'keyLimited' };

/** A new element; what comes from outside goes into it as text only. */
export function element(name, className) {
  const made = document.createElement(name);
  made.className = className;
  return made;
}

function button(key, action) {
  const made = say(element('button', key), key);
  made.type = 'button';
  made.addEventListener('click', action);
  return made;
}

/** An error with a problem document, or with a sentence of our own under `key`. */
export class ChatError extends Error {
  constructor(key, problem) {
    super(problem?.detail ?? key);
    this.key = key;
    this.problem = problem;
  }
}

/** One reply in the log, written as it comes. */
export class Reply {
  #box = element('article', 'reply');
  #text = element('p', 'text');
  #node = document.createTextNode('');
  #meta = element('p', 'meta');
  #error;
  cached = false;

  constructor(log) {
    this.#text.append(this.#node);
    this.#box.append(say(element('h3', 'hidden'), 'assistant'), this.#text, this.#meta);
    log.append(this.#box);
  }

  /** It is read, for the first time or once more. */
  reading() {
    this.#error?.remove();
    this.#text.hidden = false;
    this.#box.dataset.state = 'streaming';
    say(this.#meta, 'waiting');
  }

  /** The connection is lost, and made again soon. */
  lost(seconds) {
    say(this.#meta, 'lost', { seconds });
  }

  add(text) {
    this.#node.appendData(text);
    say(this.#meta, 'waiting');
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

  /** @param goOn makes a button that does it */
  failed(error, goOn) {
    this.#end('failed');
    const { key, problem } = error;
    const box = element('div', 'error');
    this.#error = box;
    const sentence = (key === 'failed' && REFUSALS[problem.status]) || key;
    const values = { status: problem?.status ?? '', seconds: problem?.retry_after };
    box.append(say(element('strong', ''), sentence, values));
    if (problem) {
      const detail = element('p', '');
      detail.textContent = problem.detail;
      box.append(detail);
    }
    if (goOn) box.append(button('goOn', goOn));
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
    say(this.#part(), key, values);
  }

  #part() {
    const part = element('span', '');
    this.#meta.append(part);
    return part;
  }
}
