import { isPlain, isSpace } from '../chars.ts';
import { Inline, MAX_HELD } from '../inline/inline.ts';
import type { Output } from '../output.ts';
import type { Leaf } from './leaf.ts';
import type { OpenLeaf } from './line-plan.ts';

/** The rows of a table after its header; each is written when its line is complete, or in parts of MAX_HELD. */
export class Table implements Leaf {
  readonly state: OpenLeaf = { kind: 'table' };
  readonly #output: Output;
  #line = '';
  /** Whether a part of the row has been written. */
  #isContinued = false;

  constructor(output: Output) {
    this.#output = output;
  }

  startLine(): void {
    this.#line = '';
    this.#isContinued = false;
  }

  text(piece: string): void {
    let rest = piece;
    while (this.#line.length + rest.length >= MAX_HELD) {
      const room = MAX_HELD - this.#line.length;
      this.#line += rest.slice(0, room);
      rest = rest.slice(room);
      this.#writePart();
    }
    this.#line += rest;
  }

  endLine(): void {
    this.#write(this.#line);
  }

  /** Writes the row up to its last pipe, or all of it without one. */
  #writePart(): void {
    const pipe = this.#line.lastIndexOf('|');
    const end = pipe > 0 ? pipe : this.#line.length;
    this.#write(this.#line.slice(0, end));
    this.#line = this.#line.slice(end);
  }

  #write(cells: string): void {
    const text = rowText(splitRow(cells));
    if (!this.#isContinued) this.#output.newLine();
    else if (text !== '' && cells.startsWith('|')) this.#output.write('\t');
    this.#output.write(text);
    this.#isContinued = true;
  }

  close(): void {
    this.#output.finish();
  }
}

/** Splits a row at its unescaped pipes, without the enclosing ones. */
export function splitRow(line: string): string[] {
  const cells: string[] = [];
  let start = 0;
  let at = 0;
  for (; at < line.length; at++) {
    const char = line[at];
    if (char === '\\' && (line[at + 1] === '\\' || line[at + 1] === '|')) at++;
    else if (char === '|') {
      cells.push(line.slice(start, at));
      start = at + 1;
    }
  }
  cells.push(line.slice(start));
  if (cells.length > 1 && trim(cells[0]) === '') cells.shift();
  if (cells.length > 1 && trim(cells.at(-1)) === '') cells.pop();
  return cells;
}

/** The text of a row: its cells joined by tabs. */
export function rowText(cells: readonly string[]): string {
  return cells.map(cellText).join('\t');
}

function cellText(cell: string): string {
  const trimmed = trim(cell);
  if (isPlain(trimmed)) return trimmed;
  let text = '';
  const inline = new Inline((piece) => {
    text += piece;
  }, true);
  inline.feed(trimmed);
  inline.end();
  return text;
}

/** Removes spaces and tabs at both ends. */
function trim(cell: string | undefined): string {
  if (cell === undefined) return '';
  let start = 0;
  let end = cell.length;
  while (start < end && isSpace(cell.charCodeAt(start))) start++;
  while (end > start && isSpace(cell.charCodeAt(end - 1))) end--;
  return cell.slice(start, end);
}
