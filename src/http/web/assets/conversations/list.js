import { button, element, timeElement } from '../chat/dom.js';
import { setText } from '../i18n.js';
import { deleteConversation, listConversations } from './api.js';

/** How long a button waits for its confirmation. */
const CONFIRM_MS = 5000;

const find = (id) => document.getElementById(id);

/** The list of conversations beside the chat. */
class ConversationList {
  #box = find('sidebar');
  #list = find('conversations');
  #note = find('list-note');
  #more = find('list-more');
  #toggle = find('list-toggle');
  #items = [];
  #cursor;
  #current;
  #loading;
  #page;

  constructor(page) {
    this.#page = page;
  }

  listen() {
    this.#more.addEventListener('click', () => this.#load(this.#cursor));
    this.#toggle.addEventListener('click', () => this.#open(this.#toggle.ariaExpanded !== 'true'));
    this.#list.addEventListener('click', (event) => this.#onClick(event));
    this.#box.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || this.#toggle.ariaExpanded !== 'true') return;
      event.stopPropagation();
      this.#open(false);
      this.#toggle.focus();
    });
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden) void this.refresh();
    });
  }

  /** Loads the first page again. */
  refresh() {
    return this.#load(undefined);
  }

  clear() {
    this.#loading?.abort();
    this.#items = [];
    this.#cursor = undefined;
    this.#show();
  }

  /** Marks the open conversation. */
  select(id) {
    this.#current = id;
    this.#show();
    this.#open(false);
  }

  /** Moves a conversation to the front after a turn, without asking the server. */
  touch(change) {
    const id = change.conversation_id;
    const old = this.#items.find((item) => item.conversation_id === id);
    const item = { title: null, ...old, ...change, last_active: new Date().toISOString() };
    if (old?.title) item.title = old.title;
    this.#items = [item, ...this.#items.filter((other) => other !== old)];
    this.#show();
  }

  async #load(cursor) {
    this.#loading?.abort();
    const loading = new AbortController();
    this.#loading = loading;
    try {
      const page = await listConversations({ cursor }, loading.signal);
      const earlier = cursor ? this.#items : [];
      const known = new Set(earlier.map((item) => item.conversation_id));
      this.#items = [...earlier, ...page.conversations.filter((item) => !known.has(item.conversation_id))];
      this.#cursor = page.has_more ? page.next_cursor : undefined;
      this.#show();
    } catch (error) {
      if (loading.signal.aborted) return;
      this.#say(error.problem?.status === 403 ? 'listHidden' : 'listFailed');
    }
  }

  #onClick(event) {
    const link = event.target.closest('a[data-id]');
    const opensElsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
    if (!link || opensElsewhere) return;
    event.preventDefault();
    this.#page.onOpen(link.dataset.id);
  }

  /** On narrow screens the list covers the chat while it is open. */
  #open(isOpen) {
    this.#toggle.ariaExpanded = String(isOpen);
    this.#box.classList.toggle('open', isOpen);
  }

  #say(key) {
    this.#note.hidden = key === undefined;
    if (key) setText(this.#note, key);
  }

  #show() {
    const focused = document.activeElement?.dataset.id;
    this.#list.replaceChildren(...this.#items.map((item) => this.#element(item)));
    if (focused) this.#list.querySelector(`a[data-id="${CSS.escape(focused)}"]`)?.focus();
    this.#more.hidden = this.#cursor === undefined;
    this.#say(this.#items.length === 0 ? 'listEmpty' : undefined);
  }

  #element(item) {
    const id = item.conversation_id;
    const link = element('a', 'conversation');
    link.href = `/?c=${encodeURIComponent(id)}`;
    link.dataset.id = id;
    const title = element('span', 'title', item.title ?? '');
    if (!item.title) setText(title, 'untitled', { id: id.slice(-8) });
    link.append(title, timeElement(item.last_active));
    const box = element('li', '', link);
    if (id === this.#current) {
      link.ariaCurrent = 'page';
      box.append(this.#actions(item));
    }
    return box;
  }

  #actions(item) {
    const remove = button('remove', () => this.#remove(item, remove));
    return element('div', 'actions', remove);
  }

  async #remove(item, confirm) {
    if (confirm.dataset.t === 'remove') {
      setText(confirm, 'removeSure');
      setTimeout(() => setText(confirm, 'remove'), CONFIRM_MS);
      return;
    }
    if (!(await this.#try(() => deleteConversation(item.conversation_id)))) return;
    this.#items = this.#items.filter((other) => other !== item);
    this.#show();
    this.#page.onRemoved(item.conversation_id);
  }

  /** @returns whether it worked, or was done before */
  async #try(action) {
    try {
      await action();
      return true;
    } catch (error) {
      if (error.problem?.code === 'conversation_not_found') return true;
      this.#say('listFailed');
      return false;
    }
  }
}

/** @param page `onOpen(id)` and `onRemoved(id)` */
export function startList(page) {
  const list = new ConversationList(page);
  list.listen();
  return list;
}
