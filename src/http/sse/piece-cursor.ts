import { cut, MAX_STEP } from '../../util/pieces.ts';

/** Reads a growing list of pieces in parts of at most MAX_STEP units. */
export class PieceCursor {
  readonly #piece: (index: number) => string | undefined;
  /** The next piece, and where to continue inside it. */
  #index = 0;
  #offset = 0;

  /** @param piece undefined beyond the end */
  constructor(piece: (index: number) => string | undefined) {
    this.#piece = piece;
  }

  /** How many pieces are read. */
  get count(): number {
    return this.#index;
  }

  /** '' when there is nothing new. */
  next(): string {
    let part = '';
    for (let piece = this.#piece(this.#index); piece !== undefined; piece = this.#piece(this.#index)) {
      const room = MAX_STEP - part.length;
      const rest = this.#offset === 0 ? piece : piece.slice(this.#offset);
      if (rest.length > room) {
        const [head = ''] = cut(rest, room);
        this.#offset += head.length;
        return part + head;
      }
      part += rest;
      this.#index += 1;
      this.#offset = 0;
    }
    return part;
  }
}
