import type { OpenLeaf } from './line-plan.ts';

/** An open block with text; its lines arrive in pieces. */
export interface Leaf {
  readonly state: OpenLeaf;
  /** `padding`: spaces before the text. `lazy`: the line lacks the marks of its containers. */
  startLine(padding: number, lazy: boolean): void;
  /** A non-empty piece of the line, without the line ending. */
  text(piece: string): void;
  endLine(): void;
  /** Ends the block; called between lines. */
  close(): void;
}
