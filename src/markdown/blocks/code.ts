import type { Output } from '../output.ts';
import type { Leaf } from './leaf.ts';
import type { Literal, OpenLeaf } from './line-plan.ts';
import type { Fence } from './line-starts.ts';

/** Fenced code: its lines, unchanged. */
export class FencedCode implements Leaf {
  readonly state: OpenLeaf;
  readonly #output: Output;
  #isFirst = true;

  constructor(output: Output, fence: Fence) {
    this.#output = output;
    this.state = { kind: 'fence', fence };
  }

  startLine(padding: number): void {
    if (!this.#isFirst) this.#output.newLine();
    this.#isFirst = false;
    this.#output.write(' '.repeat(padding));
  }

  text(piece: string): void {
    this.#output.write(piece);
  }

  endLine(): void {}

  close(): void {
    this.#output.finish();
  }
}

/** Indented code. Blank lines belong to it only if more code follows. */
export class IndentedCode implements Leaf {
  readonly state: OpenLeaf = { kind: 'indented' };
  readonly #output: Output;
  /** Pending lines of white space, the current one last. */
  #white = '';
  #isWhite = true;
  #isFirst = true;

  constructor(output: Output) {
    this.#output = output;
  }

  startLine(padding: number): void {
    if (!this.#isFirst) this.#white += '\n';
    this.#isFirst = false;
    this.#white += ' '.repeat(padding);
    this.#isWhite = true;
  }

  text(piece: string): void {
    if (this.#isWhite) {
      const textStart = piece.search(/[^ \t]/);
      if (textStart < 0) {
        this.#white += piece;
        return;
      }
      this.#isWhite = false;
      this.#output.write(this.#white);
      this.#white = '';
    }
    this.#output.write(piece);
  }

  endLine(): void {}

  close(): void {
    this.#output.finish();
    if (this.#white !== '') this.#output.blank();
  }
}

/** Characters to keep for matching an end string across pieces; longer than any such string. */
const TAIL = 12;

/** An HTML block or a display formula: its source, unchanged. */
export class LiteralBlock implements Leaf {
  readonly #output: Output;
  readonly #literal: Literal;
  #tail = '';
  #isFirst = true;
  /** The first line of a formula has its opening mark, which may be the closing one too. */
  #canEnd = false;
  #isOver = false;

  constructor(output: Output, literal: Literal) {
    this.#output = output;
    this.#literal = literal;
  }

  get state(): OpenLeaf {
    return this.#isOver ? { kind: 'none' } : this.#literal;
  }

  startLine(padding: number): void {
    if (!this.#isFirst) this.#output.newLine();
    this.#canEnd = !this.#isFirst || this.#literal.kind === 'html';
    this.#isFirst = false;
    this.#tail = '';
    this.#output.write(' '.repeat(padding));
  }

  text(piece: string): void {
    this.#output.write(piece);
    const { end } = this.#literal;
    if (end === 'blank' || !this.#canEnd) return;
    const seen = (this.#tail + piece).toLowerCase();
    if (end.some((mark) => seen.includes(mark))) this.#isOver = true;
    this.#tail = seen.slice(-TAIL);
  }

  endLine(): void {}

  close(): void {
    this.#output.finish();
  }
}
