import { currentKey, isToken, responses, setKey } from './credentials.js';
import { HEALTH } from './health.js';
import { setText } from './i18n.js';

/** The prefix that identifies a key in lists. */
const PREFIX = /^ck_[\dA-Za-z]{8}(?=_)/;

/** The list says itself that the key lacks the scope `read`: one with `chat` is enough for the rest. */
const isList = (path) => path.startsWith('/api/conversations?');

const find = (id) => document.getElementById(id);

/** The form for the API key, hidden where the server requires none. */
class KeyPanel {
  #box = find('key');
  #form = find('key-form');
  #input = find('key-input');
  #forget = find('key-forget');
  #state = find('key-state');
  #timer;
  /** When a request was last refused: a good response to an older request must not hide that. */
  #refusedAt = 0;
  #page;

  constructor(page) {
    this.#page = page;
  }

  listen() {
    responses.addEventListener('response', ({ detail }) => this.#onResponse(detail));
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#use(this.#input.value.trim());
    });
    this.#forget.addEventListener('click', () => {
      setKey(undefined);
      this.#showForm('keyNeeded');
      this.#input.focus();
      this.#page.onKeyRemoved();
    });
    if (currentKey() !== undefined) this.#showKey();
    else if (document.documentElement.dataset.keys === 'required') this.#showForm('keyNeeded');
  }

  async #use(key) {
    if (!isToken(key)) {
      this.#showForm('keyInvalid');
      return;
    }
    setKey(key);
    this.#input.value = '';
    this.#showKey();
    await this.#page.onKeySet();
    if (currentKey() === key) this.#page.onKeyAccepted();
    else this.#input.focus();
  }

  #onResponse({ path, status, seconds, keyed, began }) {
    const isRefused = status === 429 || (status === 403 && !isList(path));
    if (isRefused) this.#refusedAt = performance.now();
    if (status === 401) {
      this.#showForm(keyed ? 'keyRefused' : 'keyNeeded');
      if (path !== HEALTH) this.#input.focus();
    } else if (!keyed) return;
    else if (status === 429) {
      this.#showKey('keyLimited', { seconds });
      this.#timer = setTimeout(() => this.#showKey(), seconds * 1000);
    } else if (isRefused) this.#showKey('keyScope');
    else if (path !== HEALTH && began >= this.#refusedAt) this.#showKey();
  }

  #showForm(text) {
    this.#show(text, {});
    this.#form.hidden = false;
    this.#forget.hidden = true;
  }

  #showKey(text = 'keyUsed', values = {}) {
    const prefix = PREFIX.exec(currentKey() ?? '')?.[0] ?? '';
    this.#show(text, { prefix, ...values });
    this.#form.hidden = true;
    this.#forget.hidden = false;
  }

  #show(text, values) {
    clearTimeout(this.#timer);
    const first = this.#box.hidden;
    this.#box.hidden = false;
    this.#box.dataset.state = ['keyNeeded', 'keyUsed'].includes(text) ? 'wait' : 'bad';
    setText(this.#state, text, values);
    if (first) this.#page.onKeyRequired();
  }
}

/** @param page the callbacks; `onKeySet` makes a request that verifies the key */
export function startKeyPanel(page) {
  new KeyPanel(page).listen();
}

/** Whether requests can be made: there is a key, or the server requires none. */
export function hasAccess() {
  return currentKey() !== undefined || document.documentElement.dataset.keys !== 'required';
}
