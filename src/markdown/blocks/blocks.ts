import { Cursor } from '../cursor.ts';
import type { Output } from '../output.ts';
import { FencedCode, IndentedCode, LiteralBlock } from './code.ts';
import { Heading } from './heading.ts';
import type { Leaf } from './leaf.ts';
import { type Container, type LinePlan, planLine, type Role } from './line-plan.ts';
import type { ItemStart } from './line-starts.ts';
import { Paragraph } from './paragraph.ts';

/**
 * Up to this length the start of a line is parsed again with every piece; beyond it only when it has grown by an
 * eighth, which keeps the cost linear.
 */
const ALWAYS_PARSE = 256;
/** If the kind of a line still depends on its rest after so many characters, it is decided as if text followed. */
const MAX_START = 4096;
/** Maximum indentation of the text, whatever the nesting of its lists. */
const MAX_INDENT = 24;

const WHITE = /^[ \t]*$/;

/** Parses the blocks of a document line by line. The text of a line goes to its block as soon as the block is known. */
export class Blocks {
  readonly #output: Output;
  readonly #containers: Container[] = [];
  #leaf: Leaf | null = null;
  /** Receives the rest of the current line; null until the start of the line has been parsed. */
  #line: Leaf | 'skip' | null = null;
  /** The unparsed start of the line. */
  #start = '';
  /** Length of the start at which parsing is tried again. */
  #parseAt = 0;
  #isWhite = true;

  constructor(output: Output) {
    this.#output = output;
  }

  /** Adds text whose line endings are line feeds. */
  feed(text: string): void {
    let at = 0;
    for (;;) {
      const end = text.indexOf('\n', at);
      const piece = end < 0 ? text.slice(at) : text.slice(at, end);
      if (piece !== '') this.#piece(piece);
      if (end < 0) return;
      this.#endLine();
      at = end + 1;
    }
  }

  /** Fast path: adds a piece of plain text in the middle of a paragraph. Returns false if the piece needs parsing. */
  tryPlain(text: string): boolean {
    return this.#line instanceof Paragraph && this.#line.tryPlain(text);
  }

  end(): void {
    if (this.#line !== null || this.#start !== '') this.#endLine();
    this.#closeLeaf();
    this.#closeContainers(0);
  }

  #piece(piece: string): void {
    if (this.#line !== null) {
      if (this.#line !== 'skip') this.#line.text(piece);
      return;
    }
    const room = MAX_START - this.#start.length;
    const part = piece.length < room ? piece : piece.slice(0, room);
    this.#start += part;
    this.#isWhite &&= WHITE.test(part);
    if (part.length === room) this.#parseLongStart();
    else if (!this.#isWhite && this.#start.length >= this.#parseAt) this.#parseStart(false);
    if (part.length < piece.length) this.#piece(piece.slice(part.length));
  }

  #parseLongStart(): void {
    this.#parseStart(false);
    if (this.#line === null) this.#parseStart(true, 'x');
  }

  #endLine(): void {
    if (this.#line === null) this.#parseStart(true);
    if (this.#line !== null && this.#line !== 'skip') this.#line.endLine();
    this.#line = null;
    this.#start = '';
    this.#parseAt = 0;
    this.#isWhite = true;
    this.#output.endLine();
  }

  /** @param next what is taken to follow the start */
  #parseStart(complete: boolean, next = ''): void {
    const cursor = new Cursor(this.#start + next, complete);
    const plan = planLine(cursor, this.#containers, this.#leaf?.state ?? { kind: 'none' });
    if (cursor.starved) {
      const length = this.#start.length;
      this.#parseAt = length < ALWAYS_PARSE ? 0 : length + (length >> 3);
      return;
    }
    const line = this.#apply(plan);
    this.#line = line ?? 'skip';
    if (line === null) return;
    line.startLine(cursor.padding, plan.role.kind === 'lazy');
    const rest = this.#start.slice(cursor.rest);
    if (rest !== '') line.text(rest);
  }

  /** Closes and opens blocks as planned; returns the block that the line's text belongs to. */
  #apply(plan: LinePlan): Leaf | null {
    const { role } = plan;
    if (role.kind === 'lazy') return this.#leaf;
    if (role.kind !== 'blank') this.#markFilled(plan.matched);
    if (role.kind === 'more') return this.#leaf;
    if (role.kind === 'delimiter') {
      if (this.#leaf instanceof Paragraph) this.#leaf = this.#leaf.toTable();
      return null;
    }
    this.#closeLeaf();
    this.#closeContainers(plan.matched);
    for (const start of plan.opens) {
      this.#open(start, role.kind === 'blank' && start === plan.opens.at(-1));
    }
    if (role.kind === 'blank' || role.kind === 'break') this.#output.blank();
    this.#leaf = this.#leafFor(role);
    if (this.#leaf) this.#output.begin(this.#indent);
    return role.kind === 'fence' ? null : this.#leaf;
  }

  #leafFor(role: Role): Leaf | null {
    switch (role.kind) {
      case 'paragraph':
        return new Paragraph(this.#output);
      case 'heading':
        return new Heading(this.#output);
      case 'indented':
        return new IndentedCode(this.#output);
      case 'fence':
        return new FencedCode(this.#output, role.fence);
      case 'html':
      case 'math':
        return new LiteralBlock(this.#output, role);
      default:
        return null;
    }
  }

  get #indent(): string {
    const item = this.#containers.findLast((container) => container.kind === 'item');
    return item?.kind === 'item' ? item.indent : '';
  }

  #open(start: ItemStart | null, empty: boolean): void {
    if (start === null) {
      this.#containers.push({ kind: 'quote' });
      return;
    }
    const indent = this.#indent;
    this.#output.item(indent, start.marker);
    const inside = ' '.repeat(Math.min(indent.length + start.marker.length, MAX_INDENT));
    this.#containers.push({ kind: 'item', width: start.width, indent: inside, empty });
  }

  /** Marks the innermost matched list item as not empty. */
  #markFilled(matched: number): void {
    const container = this.#containers[matched - 1];
    if (container?.kind === 'item') container.empty = false;
  }

  #closeLeaf(): void {
    this.#leaf?.close();
    this.#leaf = null;
  }

  #closeContainers(matched: number): void {
    while (this.#containers.length > matched) {
      if (this.#containers.pop()?.kind === 'item') this.#output.endItem();
    }
  }
}
