import { copyButton, element, label } from '../chat/dom.js';
import { Marked } from '../vendor/marked.js';
import cjkFriendly from '../vendor/marked-cjk-friendly.js';

const marked = new Marked(cjkFriendly(), { gfm: true });

/** Replies are below the h3 that names their author. */
const HEADING_SHIFT = 3;
const SAFE_URL = /^(?:https?|mailto):/i;
const ENTITY = /&[a-z][a-z\d]*;/gi;

const parser = new DOMParser();
/** The policy of the page lets no other text become HTML. */
const policy = globalThis.trustedTypes?.createPolicy('entity', {
  createHTML: (entity) => entity.match(ENTITY)?.[0] ?? '',
});

/** The characters that a text names, as in `&copy;`. */
function decode(text) {
  return text.replace(ENTITY, (entity) => {
    const document = parser.parseFromString(policy?.createHTML(entity) ?? entity, 'text/html');
    return document.documentElement.textContent;
  });
}

const children = ({ tokens = [] }) => tokens.flatMap(nodeOf);

/** A link opens in a new tab. One that is no link of the web is shown as its text. */
function link({ href, title, autolink }, content) {
  const url = autolink ? href : decode(href);
  if (!SAFE_URL.test(url)) return content;
  const made = element('a', '', ...content);
  const rel = 'noopener noreferrer nofollow';
  return Object.assign(made, { href: url, target: '_blank', rel, title: decode(title ?? '') });
}

/** A code block with its language, a copy button, and its own sideways scrolling. */
function codeBlock({ lang = '', text }) {
  const pre = element('pre', '', element('code', '', `${text}\n`));
  pre.tabIndex = 0;
  const bar = element('div', 'code-bar', element('span', '', /\S*/.exec(lang)[0]));
  bar.append(copyButton(() => pre.textContent));
  return element('div', 'code', bar, pre);
}

function row(cells) {
  return element(
    'tr',
    '',
    ...cells.map((cell) => {
      const made = element(cell.header ? 'th' : 'td', '', ...children(cell));
      if (cell.align) made.align = cell.align;
      return made;
    }),
  );
}

function table({ header, rows }) {
  const made = element(
    'table',
    '',
    element('thead', '', row(header)),
    element('tbody', '', ...rows.map(row)),
  );
  const frame = label(element('div', 'table', made), 'table');
  frame.tabIndex = 0;
  frame.role = 'region';
  return frame;
}

function list({ ordered, start, items }) {
  const made = element(ordered ? 'ol' : 'ul', '', ...items.map(nodeOf));
  if (ordered && start !== 1) made.start = start;
  return made;
}

function checkbox({ checked }) {
  return Object.assign(element('input'), { type: 'checkbox', defaultChecked: checked, disabled: true });
}

/** HTML of the model is shown as text, except for line breaks, which tables need. */
function html({ text, block }) {
  if (/^<br ?\/?>$/i.test(text)) return element('br');
  return block ? element('p', '', text) : text;
}

const parent = (name) => (token) => element(name, '', ...children(token));

/**
 * Makes nodes or texts of each type of token. Other types are shown as their source, and no HTML is parsed. An image
 * becomes a link: loading it would send its server whatever the model was made to put into the address.
 */
const NODES = {
  paragraph: parent('p'),
  blockquote: parent('blockquote'),
  list_item: parent('li'),
  strong: parent('strong'),
  em: parent('em'),
  del: parent('del'),
  heading: (token) => parent(`h${Math.min(6, token.depth + HEADING_SHIFT)}`)(token),
  br: () => element('br'),
  hr: () => element('hr'),
  space: () => '',
  def: () => '',
  escape: ({ text }) => text,
  codespan: ({ text }) => element('code', '', text),
  text: (token) => (token.tokens ? children(token) : decode(token.text)),
  link: (token) => link(token, token.autolink ? [token.text] : children(token)),
  image: (token) => link(token, [decode(token.text || token.href)]),
  code: codeBlock,
  table,
  list,
  checkbox,
  html,
};

function nodeOf(token) {
  return NODES[token.type]?.(token) ?? token.raw;
}

/** A Markdown text that grows. Blocks that did not change keep their elements, and with them selection and scrolling. */
export class MarkdownView {
  #box;
  /** The shown blocks: `{ token, node }`. */
  #blocks = [];
  #links = '{}';

  constructor(box) {
    this.#box = box;
  }

  show(text) {
    try {
      this.#show(text);
    } catch (error) {
      // Nested too deeply for the parser.
      if (!(error instanceof RangeError)) throw error;
      const node = codeBlock({ text });
      this.#box.replaceChildren(node);
      this.#blocks = [{ token: {}, node }];
    }
  }

  #show(text) {
    const tokens = marked.lexer(text);
    const links = JSON.stringify(tokens.links);
    const blocks = tokens.filter(({ type }) => type !== 'space' && type !== 'def');
    let same = 0;
    if (links === this.#links)
      while (same < blocks.length && this.#blocks[same]?.token.raw === blocks[same].raw) same += 1;
    if (this.#growCode(same, blocks)) return;
    for (const { node } of this.#blocks.splice(same)) node.remove();
    for (const token of blocks.slice(same)) {
      const node = nodeOf(token);
      this.#box.append(node);
      this.#blocks.push({ token, node });
    }
    this.#links = links;
  }

  /** A code block that is still being written only gets its new text. */
  #growCode(at, blocks) {
    const [old, token] = [this.#blocks[at], blocks[at]];
    if (at !== blocks.length - 1 || at !== this.#blocks.length - 1) return false;
    if (old.token.type !== 'code' || token.type !== 'code' || old.token.lang !== token.lang) return false;
    old.node.querySelector('code').textContent = `${token.text}\n`;
    this.#blocks[at] = { token, node: old.node };
    return true;
  }
}
