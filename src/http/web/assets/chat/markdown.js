import { Marked } from '../vendor/marked.js';
import cjkFriendly from '../vendor/marked-cjk-friendly.js';
import '../vendor/purify.js';
import { copyButton, element, label } from './dom.js';

const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escapeHtml = (text) => text.replace(/[&<>"]/g, (character) => ESCAPES[character]);

/** Replies are below the h3 that names their author. */
const HEADING_SHIFT = 3;

/**
 * HTML of the model is shown as text. An image becomes a link: loading it would tell its server what the model was made
 * to put into the address.
 */
const marked = new Marked(cjkFriendly(), {
  gfm: true,
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escapeHtml(text)}</p>` : escapeHtml(text)),
    image: ({ href, text }) => `<a href="${escapeHtml(href)}">${escapeHtml(text || href)}</a>`,
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + HEADING_SHIFT);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});

/** The second line of defence: only what Markdown needs gets through, whatever the parser made. */
const SAFE = {
  ALLOWED_TAGS:
    'p br hr h4 h5 h6 ul ol li blockquote pre code em strong del a table thead tbody tr th td input'.split(
      ' ',
    ),
  ALLOWED_ATTR: ['href', 'title', 'start', 'align', 'class', 'type', 'checked', 'disabled'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ['type', 'start', 'align', 'checked', 'disabled'],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

/** A code block with its language, a copy button, and its own sideways scrolling. */
function frameCode(pre) {
  const code = pre.firstElementChild;
  const language = /language-(\S+)/.exec(code?.className ?? '')?.[1] ?? '';
  const frame = element('div', 'code');
  const bar = element('div', 'code-bar', element('span', '', language));
  bar.append(copyButton(() => pre.textContent));
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  frame.append(bar, pre);
}

function finish(fragment) {
  for (const pre of fragment.querySelectorAll('pre')) frameCode(pre);
  for (const table of fragment.querySelectorAll('table')) {
    const frame = label(element('div', 'table'), 'table');
    frame.tabIndex = 0;
    frame.role = 'region';
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const link of fragment.querySelectorAll('a[href]')) {
    link.target = '_blank';
    link.rel = 'noopener noreferrer nofollow';
  }
  return [...fragment.childNodes].filter(
    (node) => node.nodeType !== Node.TEXT_NODE || node.data.trim() !== '',
  );
}

/** A Markdown text that grows. Blocks that did not change keep their elements, and with them selection and scrolling. */
export class MarkdownView {
  #box;
  /** The shown blocks: `{ token, nodes }`. */
  #blocks = [];
  #links = '{}';

  constructor(box) {
    this.#box = box;
  }

  show(text) {
    const tokens = marked.lexer(text);
    const links = JSON.stringify(tokens.links);
    const blocks = tokens.filter(({ type }) => type !== 'space' && type !== 'def');
    let same = 0;
    if (links === this.#links)
      while (same < blocks.length && this.#blocks[same]?.token.raw === blocks[same].raw) same += 1;
    if (this.#growCode(same, blocks)) return;
    for (const { nodes } of this.#blocks.splice(same)) for (const node of nodes) node.remove();
    for (const token of blocks.slice(same)) {
      const html = marked.parser(Object.assign([token], { links: tokens.links }));
      const nodes = finish(globalThis.DOMPurify.sanitize(html, SAFE));
      this.#box.append(...nodes);
      this.#blocks.push({ token, nodes });
    }
    this.#links = links;
  }

  /** A code block that is still being written only gets its new text. */
  #growCode(at, blocks) {
    const [old, token] = [this.#blocks[at], blocks[at]];
    if (at !== blocks.length - 1 || at !== this.#blocks.length - 1) return false;
    if (old.token.type !== 'code' || token.type !== 'code' || old.token.lang !== token.lang) return false;
    const code = old.nodes[0].querySelector?.('code');
    if (!code) return false;
    code.textContent = `${token.text}\n`;
    this.#blocks[at] = { token, nodes: old.nodes };
    return true;
  }
}
