import { setText } from '../i18n.js';
import { element } from './dom.js';

/** A question in the log. It is shown as it was written, not as Markdown. */
export class Question {
  box = element('article', 'question');

  constructor({ content, timestamp }) {
    const text = element('p', 'text', content);
    if (timestamp) text.title = new Date(timestamp).toLocaleString(document.documentElement.lang);
    this.box.append(setText(element('h3', 'hidden'), 'you'), text);
  }
}
