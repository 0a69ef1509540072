import { hasText, setText } from '../i18n.js';
import { element } from './dom.js';

/** Codes whose `detail` names what to change. It is English, so the others are shown by their code only. */
const DETAILED = ['validation', 'upstream_error', 'upstream_rejected'];

/** An error with the key of its text and, where the server sent one, a problem document. */
export class ChatError extends Error {
  constructor(key, problem) {
    super(problem?.detail ?? key);
    this.key = key;
    this.problem = problem;
  }
}

/** The problem document of a response, which a proxy may have sent without one. */
export async function problemOf(response) {
  const defaults = {
    status: response.status,
    detail: response.statusText,
    request_id: response.headers.get('x-request-id'),
    retry_after: response.headers.get('retry-after'),
  };
  return { ...defaults, ...(await response.json().catch(() => ({}))) };
}

/** What a problem means: by its code in the language of the page, else in the words of the server. */
function explain({ code, title, detail }) {
  const isKnown = hasText(code);
  const parts = isKnown ? [setText(element('p'), code)] : [];
  if (detail && (!isKnown || (DETAILED.includes(code) && detail !== title))) {
    const part = element('p', 'detail', detail);
    part.lang = 'en';
    parts.push(part);
  }
  return parts;
}

/** The box that shows an error. */
export function errorBox({ key, problem }, title = key) {
  const box = element('div', 'error', setText(element('strong'), title, { status: problem?.status ?? '' }));
  if (problem) box.append(...explain(problem));
  return box;
}
