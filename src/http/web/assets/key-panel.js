import { answers, currentKey, isPossible, keepKey } from './credentials.js';
import { HEALTH } from './health.js';
import { say } from './i18n.js';

/** `ck_` and the eight characters by which a key is known in lists. */
const PREFIX = /^ck_[\dA-Za-z]{8}(?=_)/;

const find = (id) => document.getElementById(id);

/** Where a key is asked for: not shown until the server has refused something for want of one. */
class KeyPanel {
  #box = find('key');
  #form = find('key-form');
  #input = find('key-input');
  #forget = find('key-forget');
  #state = find('key-state');
  #timer;
  #page;

  constructor(page) {
    this.#page = page;
  }

  listen() {
    answers.addEventListener('answer', ({ detail }) => this.#note(detail));
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#use(this.#input.value.trim());
    });
    this.#forget.addEventListener('click', () => {
      keepKey(undefined);
      this.#ask('keyNeeded');
      this.#input.focus();
      this.#page.forgotten();
    });
    if (currentKey() !== undefined) this.#used();
  }

  async #use(key) {
    if (!isPossible(key)) {
      this.#ask('keyImpossible');
      return;
    }
    keepKey(key);
    this.#input.value = '';
    this.#used();
    await this.#page.check();
    if (currentKey() === key) this.#page.ready();
    else this.#input.focus();
  }

  #note({ path, status, seconds, keyed }) {
    if (status === 401) {
      this.#ask(keyed ? 'keyRefused' : 'keyNeeded');
      if (path !== HEALTH) this.#input.focus();
    } else if (!keyed) return;
    else if (status === 429) {
      this.#used('keyLimited', { seconds });
      this.#timer = setTimeout(() => this.#used(), seconds * 1000);
    } else if (status === 403) this.#used('keyScope');
    else if (path !== HEALTH) this.#used();
  }

  #ask(sentence) {
    this.#show(sentence, {});
    this.#form.hidden = false;
    this.#forget.hidden = true;
  }

  #used(sentence = 'keyUsed', values = {}) {
    const prefix = PREFIX.exec(currentKey() ?? '')?.[0] ?? '';
    this.#show(sentence, { prefix, ...values });
    this.#form.hidden = true;
    this.#forget.hidden = false;
  }

  #show(sentence, values) {
    clearTimeout(this.#timer);
    const first = this.#box.hidden;
    this.#box.hidden = false;
    this.#box.dataset.state = ['keyNeeded', 'keyUsed'].includes(sentence) ? 'wait' : 'bad';
    say(this.#state, sentence, values);
    if (first) this.#page.asked();
  }
}

/**
 * @param page `check` asks the server something with the key, `ready` is called when it was not refused, `forgotten`
 * when somebody has taken it away, `asked` as soon as it is known that this server asks for keys
 */
export function startKeyPanel(page) {
  new KeyPanel(page).listen();
}
