import type { OpenLeaf } from './line-plan.ts';

/** An open block that holds text: takes its lines in pieces. */
export interface Leaf {
  readonly state: OpenLeaf;
  /** A line begins. `padding`: spaces that precede its text; `lazy`: it lacks the marks of the containers. */
  startLine(padding: number, lazy: boolean): void;
  /** A non-empty piece of the line, without the line ending. */
  text(piece: string): void;
  endLine(): void;
  /** The block is over. Comes between lines. */
  close(): void;
}
