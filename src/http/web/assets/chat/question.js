import { setText } from '../i18n.js';
import { imageElement, isSubmit } from './composer.js';
import { button, element, timeElement } from './dom.js';

/** The text of a message, which may have content parts. */
export function textOf(message) {
  if (typeof message === 'string') return message;
  return message.map(({ text }) => text ?? '').join('');
}

const imagesOf = (message) =>
  typeof message === 'string' ? [] : message.filter(({ image_url }) => image_url !== undefined);

/** A question in the log. It is shown as it was written, not as Markdown. */
export class Question {
  box = element('article', 'question');
  message;
  #id;
  #body = element('div', 'body');
  #time;
  #onEdit;

  /**
   * @param onEdit called with the question and its new message
   * @param stored its id and timestamp, where it is stored
   */
  constructor(message, onEdit, { id, timestamp = new Date().toISOString() } = {}) {
    this.message = message;
    this.#onEdit = onEdit;
    this.#time = timeElement(timestamp);
    this.box.append(setText(element('h3', 'hidden'), 'you'), this.#body);
    this.id = id;
  }

  /** Of the message. Only then can it be edited. */
  set id(id) {
    if (this.#id) return;
    this.#id = id;
    if (id) this.box.dataset.id = id;
    this.#show();
  }

  get id() {
    return this.#id;
  }

  #show() {
    const images = imagesOf(this.message).map(({ image_url }) => imageElement(image_url.url));
    const text = textOf(this.message);
    const line = element('div', 'asked', this.#time);
    if (this.#id) line.append(button('edit', () => this.#edit()));
    this.#body.replaceChildren(...images, ...(text ? [element('p', 'text', text)] : []), line);
  }

  #edit() {
    const field = element('textarea');
    field.value = textOf(this.message);
    const cancel = () => {
      this.#show();
      this.#body.querySelector('.edit').focus();
    };
    const save = () => {
      if (field.value.trim() === '' && imagesOf(this.message).length === 0) return;
      const images = imagesOf(this.message);
      const text = field.value.trim() === '' ? [] : [{ type: 'text', text: field.value }];
      this.#show();
      this.#onEdit(this, images.length > 0 ? [...text, ...images] : field.value);
    };
    field.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' && !isSubmit(event)) return;
      event.preventDefault();
      event.stopPropagation();
      if (event.key === 'Escape') cancel();
      else save();
    });
    const buttons = element('div', 'edit-buttons', button('cancel', cancel), button('editSend', save));
    this.#body.replaceChildren(field, setText(element('p', 'note'), 'editNote'), buttons);
    field.focus();
  }
}
