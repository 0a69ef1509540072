/** Finding a text in conversations. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { TextMatcher } from '../../domain/conversations/conversation.ts';

/** UTF-16 units that are looked at without a pause: about a millisecond. */
const PIECE = 32 * 1024;
/** More than the longest text to find, so that none is cut by the end of a piece. */
const OVERLAP = 1024;

/**
 * The same for texts that differ in upper and lower case, or in how marks are encoded, only; in any script. To lower case
 * first, because some capitals (K for kelvin) are the capital of another letter only then; to upper case last, because
 * Greek has two lower-case sigmas. The Turkish İ becomes an i with a second dot.
 */
function fold(text: string): string {
  return text.normalize('NFC').toLowerCase().replaceAll('i\u0307', 'i').toUpperCase();
}

/** Looks for one text in many. */
export class TextSearch implements TextMatcher {
  readonly #needle: string;
  #units = 0;

  constructor(text: string) {
    this.#needle = fold(text);
  }

  /** Lets other work of the process run now and then. */
  async isIn(text: string): Promise<boolean> {
    for (let at = 0; at === 0 || at < text.length; at += PIECE) {
      const piece = text.length <= PIECE ? text : text.slice(at, at + PIECE + OVERLAP);
      if (fold(piece).includes(this.#needle)) return true;
      this.#units += piece.length;
      if (this.#units < PIECE) continue;
      this.#units = 0;
      await nextTurn();
    }
    return false;
  }
}
