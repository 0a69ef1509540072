import { setText } from '../i18n.js';
import { button, element, label } from './dom.js';
import { imageData, MAX_IMAGES, showableUrl } from './images.js';

const find = (id) => document.getElementById(id);

const DRAFT = 'draft';

/** The text that was not sent before this tab was loaded again. */
function draft() {
  try {
    return sessionStorage.getItem(DRAFT) ?? '';
  } catch {
    return '';
  }
}

function keepDraft(text) {
  try {
    if (text) sessionStorage.setItem(DRAFT, text);
    else sessionStorage.removeItem(DRAFT);
  } catch {
    // Storage is not allowed, or full.
  }
}

/** Whether a key event sends: Enter without Shift, outside of a composition. */
export function isSubmit(event) {
  // Safari ends the composition before this event. Its key code 229 marks keys of the IME.
  const isComposing = event.isComposing || event.keyCode === 229;
  return event.key === 'Enter' && !event.shiftKey && !isComposing;
}

/** An image of a message, or a link to one that another server has. */
export function imageElement(url) {
  const shown = showableUrl(url);
  const made = element(shown ? 'img' : 'a', 'image');
  if (shown) label(made, 'image').src = shown;
  else Object.assign(made, { href: url, textContent: url, target: '_blank', rel: 'noopener noreferrer' });
  return made;
}

/** The form for the next message: text, and images that are pasted, dropped or chosen. */
export class Composer {
  #input = find('message');
  #images = find('images');
  #file = find('file');
  #hint = find('hint');
  /** `data:` URLs. */
  #urls = [];

  /** @param onSubmit called when the message is to be sent */
  constructor(onSubmit) {
    find('form').addEventListener('submit', (event) => {
      event.preventDefault();
      onSubmit();
    });
    this.#input.addEventListener('keydown', (event) => {
      if (!isSubmit(event)) return;
      event.preventDefault();
      onSubmit();
    });
    this.#input.value ||= draft();
    this.#input.addEventListener('input', () => keepDraft(this.#input.value));
    this.#input.addEventListener('paste', (event) => {
      // Office programs add a picture of the text.
      if (!event.clipboardData.types.includes('text/plain')) this.#take(event, event.clipboardData);
    });
    const chat = find('chat');
    chat.addEventListener('dragover', (event) => event.preventDefault());
    chat.addEventListener('drop', (event) => this.#take(event, event.dataTransfer));
    find('attach').addEventListener('click', () => this.#file.click());
    this.#file.addEventListener('change', async () => {
      await this.#add([...this.#file.files]);
      this.#file.value = '';
    });
  }

  /** Text, or content parts when there are images. undefined: nothing to send. */
  get message() {
    const text = this.#input.value;
    const images = this.#urls.map((url) => ({ type: 'image_url', image_url: { url } }));
    if (text.trim() === '') return images.length > 0 ? images : undefined;
    return images.length > 0 ? [{ type: 'text', text }, ...images] : text;
  }

  set message(message) {
    const parts = typeof message === 'string' ? [{ type: 'text', text: message }] : (message ?? []);
    this.#input.value = parts.map(({ text }) => text ?? '').join('');
    keepDraft(this.#input.value);
    this.#urls = parts.flatMap((part) => part.image_url?.url ?? []);
    this.#show();
  }

  focus() {
    this.#input.focus();
  }

  hint(key) {
    setText(this.#hint, key);
  }

  #take(event, transfer) {
    if (transfer.files.length === 0) return;
    // The browser would leave the page for the file.
    event.preventDefault();
    void this.#add([...transfer.files]);
  }

  async #add(files) {
    try {
      for (const file of files) {
        if (this.#urls.length >= MAX_IMAGES) return this.hint('imagesFull');
        this.#urls.push(await imageData(file));
      }
    } catch (error) {
      this.hint(error.key);
    }
    this.#show();
    this.focus();
  }

  #show() {
    const boxes = this.#urls.map((url, at) => {
      const remove = button('imageRemove', () => {
        this.#urls.splice(at, 1);
        this.#show();
        this.focus();
      });
      return element('div', 'thumbnail', imageElement(url), remove);
    });
    for (const image of this.#images.querySelectorAll('img')) URL.revokeObjectURL(image.src);
    this.#images.replaceChildren(...boxes);
  }
}
