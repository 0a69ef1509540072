/** Shows the texts of the language of the page, and switches the language. */
const LANGUAGES = ['zh-CN', 'en'];
const STORED = 'language';
const ATTRIBUTES = ['aria-label', 'placeholder', 'title'];
/** The placeholder values of each element, for a change of the language. */
const valuesOf = new WeakMap();
let current = 'en';
let texts = {};

/** A text in the current language, with its placeholders filled in. */
export function translate(key, values = {}) {
  return (texts[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ''));
}

export function hasText(key) {
  return Object.hasOwn(texts, key);
}

/** Sets the text of an element, also for later languages. */
export function setText(element, key, values = {}) {
  element.dataset.t = key;
  valuesOf.set(element, values);
  show(element, translate(key, values));
  return element;
}

/** Screen readers announce every write to a live region, so unchanged texts are not written. */
function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fills in a `<time>`: without the date if that is today. */
export function showTime(time) {
  const date = new Date(time.dateTime);
  const isToday = date.toDateString() === new Date().toDateString();
  time.textContent = date.toLocaleString(current, {
    timeStyle: 'short',
    ...(isToday ? {} : { dateStyle: 'short' }),
  });
  time.title = date.toLocaleString(current);
}

/** The stored language, else the browser's. */
export function initialLanguage() {
  const language = stored() ?? navigator.language;
  return /^zh\b/i.test(language) ? 'zh-CN' : 'en';
}

function stored() {
  try {
    const value = localStorage.getItem(STORED);
    return LANGUAGES.includes(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Switches the page to a language. `keep` stores it for the next visit. */
export async function setLanguage(language, keep) {
  const response = await fetch(`./assets/texts/${language}.json`);
  texts = await response.json();
  current = language;
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll('[data-t]')) {
    show(element, translate(element.dataset.t, valuesOf.get(element)));
  }
  for (const time of document.querySelectorAll('time')) showTime(time);
  for (const attribute of ATTRIBUTES) {
    for (const element of document.querySelectorAll(`[data-t-${attribute}]`)) {
      element.setAttribute(attribute, translate(element.getAttribute(`data-t-${attribute}`)));
    }
  }
  if (!keep) return;
  try {
    localStorage.setItem(STORED, language);
  } catch {
    // Storage is not allowed. The choice lasts as long as the page.
  }
}
