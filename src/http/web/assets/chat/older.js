import { readMessages } from '../conversations/api.js';
import { button } from './dom.js';

/** How far above the visible part of the log older messages are loaded. */
const AHEAD = '600px 0px 0px';

/** Loads the messages before those that are shown, page by page, when the log is scrolled up to them. */
export class OlderMessages {
  #button = button('older', () => this.#load());
  #log;
  #render;
  #observer;
  #id;
  #cursor;
  #loading;

  /** @param render makes the box of a message */
  constructor(log, render) {
    this.#log = log;
    this.#render = render;
    const look = ([{ isIntersecting }]) => isIntersecting && void this.#load();
    this.#observer = new IntersectionObserver(look, { root: log.box, rootMargin: AHEAD });
  }

  /** @param page the newest messages, which are shown */
  start(id, page) {
    this.#id = id;
    this.#next(page);
  }

  stop() {
    this.#loading?.abort();
    this.#loading = undefined;
    this.#observer.disconnect();
    this.#button.remove();
  }

  #next({ has_more, next_cursor }) {
    this.stop();
    if (!has_more) return;
    this.#cursor = next_cursor;
    this.#log.box.prepend(this.#button);
    // Reports also when the button is in sight already.
    this.#observer.observe(this.#button);
  }

  async #load() {
    if (this.#loading) return;
    const loading = new AbortController();
    this.#loading = loading;
    const page = await readMessages(this.#id, this.#cursor, loading.signal).catch(() => undefined);
    if (this.#loading !== loading) return;
    this.#loading = undefined;
    // After a fault the button is still there.
    if (!page) return;
    this.#log.addAbove(() => {
      this.#button.after(...page.messages.map(this.#render));
      this.#next(page);
    });
  }
}
