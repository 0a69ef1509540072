/** Says the words of strings.js in the language of the page, and switches it. */
import { STRINGS } from './strings.js';

const LANGUAGES = ['zh-CN', 'en'];
const STORED = 'language';
const ATTRIBUTES = ['aria-label', 'placeholder', 'title'];
/** What was filled into the sentence of an element, for when the language changes. */
const valuesOf = new WeakMap();
let current = 'en';

/** A sentence in the language of the page, `{name}` replaced by the value of that name. */
export function words(key, values = {}) {
  const sentence = STRINGS[key]?.[LANGUAGES.indexOf(current)] ?? key;
  return sentence.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ''));
}

/** Lets an element say a sentence, in this language and in the next one. */
export function say(element, key, values = {}) {
  element.dataset.t = key;
  valuesOf.set(element, values);
  show(element, words(key, values));
  return element;
}

/** Live regions speak up at every write, so one that changes nothing is left out. */
function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The language chosen before, else the browser's. */
export function initialLanguage() {
  const asked = stored() ?? navigator.language;
  return /^zh\b/i.test(asked) ? 'zh-CN' : 'en';
}

function stored() {
  try {
    const value = localStorage.getItem(STORED);
    return LANGUAGES.includes(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Turns the whole page to a language. `keep` remembers it for the next visit. */
export function setLanguage(language, keep) {
  current = language;
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll('[data-t]')) {
    show(element, words(element.dataset.t, valuesOf.get(element)));
  }
  for (const attribute of ATTRIBUTES) {
    for (const element of document.querySelectorAll(`[data-t-${attribute}]`)) {
      element.setAttribute(attribute, words(element.getAttribute(`data-t-${attribute}`)));
    }
  }
  if (!keep) return;
  try {
    localStorage.setItem(STORED, language);
  } catch {
    // Storage is forbidden here: the choice lasts as long as the page.
  }
}
