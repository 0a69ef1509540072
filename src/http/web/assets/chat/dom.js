import { setText, showTime, translate } from '../i18n.js';

const COPIED_MS = 2000;

/** A new element. Text from the server is only set as text, never as HTML. */
export function element(name, className = '', ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** A button whose class is the key of its text. `action` is called for clicks. */
export function button(key, action) {
  const made = setText(element('button', key), key);
  made.type = 'button';
  if (action) made.addEventListener('click', action);
  return made;
}

/** The clipboard API needs HTTPS or localhost. `execCommand` works elsewhere. */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element('textarea', 'hidden');
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

/** Makes a button copy what `text()` returns, and say so for a moment. */
export function copyOnClick(made, text) {
  let timer;
  made.addEventListener('click', async () => {
    await copy(text());
    setText(made, 'copied');
    clearTimeout(timer);
    timer = setTimeout(() => setText(made, 'copy'), COPIED_MS);
  });
  return made;
}

/** A time of the server, shown as people read it. */
export function timeElement(text) {
  const time = element('time');
  time.dateTime = text;
  showTime(time);
  return time;
}

export function copyButton(text) {
  return copyOnClick(button('copy'), text);
}

/** An accessible name, or another attribute, that follows the language. */
export function label(made, key, attribute = 'aria-label') {
  made.setAttribute(attribute, translate(key));
  made.setAttribute(`data-t-${attribute}`, key);
  return made;
}
