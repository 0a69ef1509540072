import { button, element, timeElement } from '../chat/dom.js';
import { setText } from '../i18n.js';
import { addressOf, deleteConversation, listConversations, updateConversation } from './api.js';

/** How long a button waits for its confirmation. */
const CONFIRM_MS = 5000;
const SEARCH_DELAY_MS = 250;
/** A search goes through so many pages by itself while it finds nothing. */
const MAX_EMPTY_PAGES = 20;

const find = (id) => document.getElementById(id);

/** The list of conversations beside the chat: the pinned ones first, then the most recently active. */
class ConversationList {
  #box = find('sidebar');
  #list = find('conversations');
  #note = find('list-note');
  #more = find('list-more');
  #toggle = find('list-toggle');
  #search = find('search');
  #items = [];
  #cursor;
  #current;
  #loading;
  #timer;
  #page;

  constructor(page) {
    this.#page = page;
  }

  listen() {
    this.#more.addEventListener('click', () => this.#load(this.#cursor));
    this.#toggle.addEventListener('click', () => this.#open(this.#toggle.ariaExpanded !== 'true'));
    this.#list.addEventListener('click', (event) => this.#onClick(event));
    this.#search.addEventListener('input', () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.refresh(), SEARCH_DELAY_MS);
    });
    this.#box.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || this.#toggle.ariaExpanded !== 'true') return;
      event.stopPropagation();
      this.#open(false);
      this.#toggle.focus();
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
    const old = this.#items.find((item) => item.conversation_id === change.conversation_id);
    const title = old?.title ?? change.title;
    const item = { ...old, ...change, title, last_active: new Date().toISOString() };
    this.#items = [item, ...this.#items.filter((other) => other !== old)];
    this.#show();
  }

  async #load(cursor) {
    this.#loading?.abort();
    const loading = new AbortController();
    this.#loading = loading;
    try {
      const page = await this.#read(cursor, loading.signal);
      const earlier = cursor ? this.#items : [];
      const known = new Set(earlier.map((item) => item.conversation_id));
      this.#items = [...earlier, ...page.conversations.filter((item) => !known.has(item.conversation_id))];
      this.#cursor = page.has_more ? page.next_cursor : undefined;
      this.#show();
      const current = this.#items.find((item) => item.conversation_id === this.#current);
      if (current && !cursor) this.#page.onSeen(current);
    } catch (error) {
      if (loading.signal.aborted) return;
      this.#say(error.problem?.status === 403 ? 'listHidden' : 'listFailed');
    }
  }

  /** A page of a search can be empty although a later one is not. */
  async #read(cursor, signal) {
    const q = this.#search.value.trim();
    if (q === '') return this.#readAll(cursor, signal);
    for (let next = cursor, pages = 1; ; pages += 1) {
      const page = await listConversations({ q, ...(next && { cursor: next }) }, signal);
      if (page.conversations.length > 0 || !page.has_more || pages === MAX_EMPTY_PAGES) return page;
      next = page.next_cursor;
    }
  }

  async #readAll(cursor, signal) {
    if (cursor) return listConversations({ cursor }, signal);
    const [pinned, page] = await Promise.all([
      listConversations({ pinned: true }, signal),
      listConversations({}, signal),
    ]);
    const ids = new Set(pinned.conversations.map((item) => item.conversation_id));
    const others = page.conversations.filter((item) => !ids.has(item.conversation_id));
    return { ...page, conversations: [...pinned.conversations, ...others] };
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
    const items = this.#items.toSorted((a, b) => Number(b.pinned ?? false) - Number(a.pinned ?? false));
    this.#list.replaceChildren(...items.map((item) => this.#element(item)));
    if (focused) this.#list.querySelector(`a[data-id="${CSS.escape(focused)}"]`)?.focus();
    this.#more.hidden = this.#cursor === undefined;
    const isSearch = this.#search.value.trim() !== '';
    this.#say(items.length > 0 ? undefined : isSearch ? 'listNothing' : 'listEmpty');
  }

  #element(item) {
    const { conversation_id: id, last_message: last } = item;
    const link = element('a', 'conversation');
    link.href = addressOf(id);
    link.dataset.id = id;
    const title = element('span', 'title', item.title ?? '');
    if (!item.title) setText(title, 'untitled', { id: id.slice(-8) });
    link.append(title, timeElement(item.last_active));
    if (last?.preview) link.append(element('span', 'preview', last.preview));
    if (item.pinned) link.append(setText(element('span', 'mark'), 'pinned'));
    if (last?.status === 'streaming') link.append(setText(element('span', 'mark'), 'running'));
    const box = element('li', '', link);
    if (id !== this.#current) return box;
    link.ariaCurrent = 'page';
    box.append(this.#actions(item, box));
    return box;
  }

  #actions(item, box) {
    const remove = button('remove', () => this.#remove(item, remove));
    const rename = button('rename', () => this.#rename(item, box));
    const pinned = !item.pinned;
    const pin = button(pinned ? 'pin' : 'unpin', () => this.#update(item, { pinned }));
    return element('div', 'actions', rename, pin, remove);
  }

  #rename(item, box) {
    const field = element('input');
    field.value = item.title ?? '';
    field.maxLength = 200;
    field.setAttribute('aria-labelledby', 'chat-title');
    field.addEventListener('blur', () => this.#show());
    field.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== 'Escape') return;
      if (event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      event.stopPropagation();
      // An empty title brings the first line of the first question back.
      if (event.key === 'Enter') void this.#update(item, { title: field.value.trim() || null });
      else this.#show();
      this.#list.querySelector('a[aria-current]')?.focus();
    });
    box.replaceChildren(field);
    field.select();
  }

  async #update(item, changes) {
    const { conversation_id: id } = item;
    const changed = await this.#try(() => updateConversation(id, changes));
    if (!changed) return;
    this.#items = this.#items.map((other) => (other.conversation_id === id ? changed : other));
    this.#show();
    if (id === this.#current) this.#page.onRenamed(changed.title);
  }

  async #remove(item, confirm) {
    if (confirm.dataset.t === 'remove') {
      setText(confirm, 'removeSure');
      setTimeout(() => setText(confirm, 'remove'), CONFIRM_MS);
      return;
    }
    const { conversation_id: id } = item;
    if (!(await this.#try(() => deleteConversation(id)))) return;
    this.#items = this.#items.filter((other) => other.conversation_id !== id);
    this.#show();
    this.#page.onRemoved(id);
  }

  async #try(action) {
    try {
      return await action();
    } catch {
      this.#say('listFailed');
      return undefined;
    }
  }
}

/** @param page `onOpen(id)`, `onSeen(conversation)`: the open one, `onRenamed(title)` and `onRemoved(id)` */
export function startList(page) {
  const list = new ConversationList(page);
  list.listen();
  return list;
}
