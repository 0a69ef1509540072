import type {
  Code,
  Html,
  Image,
  List,
  ListItem,
  Nodes,
  Parents,
  PhrasingContent,
  Root,
  RootContent,
  Table,
} from 'mdast';
import { fromMarkdown } from 'mdast-util-from-markdown';
import { gfmFromMarkdown } from 'mdast-util-gfm';
import { cjkFriendlyExtension } from 'micromark-extension-cjk-friendly';
import { gfmStrikethroughCjkFriendly } from 'micromark-extension-cjk-friendly-gfm-strikethrough';
import { gfm } from 'micromark-extension-gfm';
import { literals } from './oracle-math.ts';

/** Constructs that the text format does not support; email addresses are text in any case. */
const DISABLED = [
  'definition',
  'tasklistCheck',
  'gfmFootnoteDefinition',
  'gfmFootnoteCall',
  'gfmPotentialFootnoteCall',
  'emailAutolink',
];

const MAX_INDENT = 24;

/** The text format of a whole document, built from the syntax tree of micromark and mdast. */
export function oracle(markdown: string): string {
  const source = markdown.replace(/^\ufeff/, '').replaceAll(/\r\n?/g, '\n');
  const tree = parse(source);
  const writer = new Writer(source);
  writer.children(tree, '');
  return writer.text;
}

export function parse(source: string): Root {
  return fromMarkdown(source, {
    extensions: [
      gfm({ singleTilde: false }),
      cjkFriendlyExtension(),
      gfmStrikethroughCjkFriendly({ singleTilde: false }),
      literals(source),
      { disable: { null: DISABLED } },
    ],
    mdastExtensions: [gfmFromMarkdown()],
  });
}

interface Pending {
  text: string;
  line: number;
}

class Writer {
  readonly #source: string;
  text = '';
  /** The last source line whose text is in `text`. */
  #lastLine = 0;
  #markers: Pending | null = null;

  constructor(source: string) {
    this.#source = source;
  }

  children(parent: Root | ListItem | (RootContent & { type: 'blockquote' }), indent: string): void {
    for (const child of parent.children) this.#block(child, indent);
  }

  #block(node: RootContent, indent: string): void {
    if (node.type === 'blockquote') this.children(node, indent);
    else if (node.type === 'list') this.#list(node, indent);
    else if (node.type === 'paragraph' || node.type === 'heading')
      this.#leaf(node, inline(node, this.#source), indent);
    else if (node.type === 'table') this.#leaf(node, table(node, this.#source), indent);
    else if (node.type === 'code' || node.type === 'html') this.#leaf(node, node.value, indent);
    else if (node.type !== 'thematicBreak') throw new Error(`unexpected block ${node.type}`);
  }

  #list(list: List, indent: string): void {
    for (const item of list.children) {
      const { line, offset } = start(item);
      const marker = /^(?:[-+*]|\d+[.)])/.exec(this.#source.slice(offset))?.[0] ?? '';
      const mark = /\d/.test(marker) ? `${marker} ` : '- ';
      this.#markers = { text: (this.#markers?.text ?? indent) + mark, line: this.#markers?.line ?? line };
      this.children(item, ' '.repeat(Math.min(indent.length + mark.length, MAX_INDENT)));
      if (this.#markers) {
        this.#separate(this.#markers.line);
        this.text += this.#markers.text.trimEnd();
        this.#lastLine = line;
        this.#markers = null;
      }
    }
  }

  #leaf(node: Code | Html | RootContent, value: string, indent: string): void {
    const text = value.replace(/^\n+/, '').replace(/\n+$/, '');
    if (text === '') return;
    const head = value.length - value.replace(/^\n+/, '').length;
    const prefix = this.#markers?.text ?? indent;
    this.#separate(this.#markers?.line ?? start(node).line + head);
    this.#markers = null;
    const lines = text
      .split('\n')
      .map((line, index) => (line === '' ? '' : (index === 0 ? prefix : indent) + line));
    this.text += lines.join('\n');
    this.#lastLine = this.#endOf(node, value);
  }

  /** The last line of a block; for code and HTML, mdast may report a blank line after it. */
  #endOf(node: RootContent, value: string): number {
    const end = node.position?.end.line ?? 0;
    if (node.type === 'html') return start(node).line + value.replace(/\n+$/, '').split('\n').length - 1;
    if (value.endsWith('\n')) return -1;
    if (node.type !== 'code') return end;
    const isFenced = /[`~]/.test(this.#source.charAt(start(node).offset));
    if (!isFenced) return start(node).line + value.split('\n').length - 1;
    const last = this.#source.split('\n')[end - 1] ?? '';
    return /(?:```|~~~)[ \t]*$/.test(last) ? end : start(node).line + value.split('\n').length;
  }

  #separate(line: number): void {
    if (this.text === '') return;
    this.text += line - this.#lastLine > 1 ? '\n\n' : '\n';
  }
}

function start(node: Nodes): { line: number; offset: number } {
  return { line: node.position?.start.line ?? 0, offset: node.position?.start.offset ?? 0 };
}

function table(node: Table, source: string): string {
  return node.children.map((row) => row.children.map((cell) => inline(cell, source)).join('\t')).join('\n');
}

function inline(parent: Parents, source: string): string {
  const parts = parent.children.map((child) => phrase(child as PhrasingContent, source));
  // Remove spaces before a backslash at the end of a line.
  parent.children.forEach((child, index) => {
    if (child.type === 'break' && parent.children[index - 1]?.type === 'text')
      parts[index - 1] = (parts[index - 1] ?? '').replace(/[ \t]+$/, '');
  });
  return parts.join('');
}

function phrase(node: PhrasingContent, source: string): string {
  switch (node.type) {
    case 'text':
    case 'html':
      return node.value;
    case 'inlineCode':
      return node.value.replaceAll('\n', ' ');
    case 'break':
      return '\n';
    case 'image':
      return alt(node);
    case 'emphasis':
    case 'strong':
    case 'delete':
      return inline(node, source);
    case 'link': {
      const text = inline(node, source);
      const bracketed = node.position !== undefined && source[start(node).offset] === '[';
      if (!bracketed || text === node.url || node.url === '') return text;
      return text === '' ? node.url : `${text} (${node.url})`;
    }
    default:
      throw new Error(`unexpected ${node.type}`);
  }
}

function alt(node: Image): string {
  return node.alt ?? '';
}
