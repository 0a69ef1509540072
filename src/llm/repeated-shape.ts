import { firstChoice, parseObject, textOf } from './shapes.ts';

const MARK = '"content":"';
const PROBE = 'x';
/** After so many chunks in a row that were not like the one before, looking for likeness is given up. */
const PATIENCE = 8;

/**
 * Most chunks of a stream differ from the one before in nothing but their content. What stands before and after it is
 * then known to mean the same, and the content can be taken out as it is, at a fifth of the cost of JSON.parse.
 */
export class RepeatedShape {
  #head = '';
  #tail = '';
  #misses = 0;

  /** The content of a chunk that is like the last one learnt; undefined when it must be parsed. */
  contentOf(data: string): string | undefined {
    const { length } = this.#head;
    if (length === 0 || !data.startsWith(this.#head) || !data.endsWith(this.#tail)) return undefined;
    const end = data.length - this.#tail.length;
    const content = data.slice(length, end);
    // An escape or a quotation mark: then the string does not end where it seems to, or is not what it seems to be.
    if (end <= length || content.includes('\\') || content.includes('"')) return undefined;
    this.#misses = 0;
    return content;
  }

  /** Remembers the shape of a chunk that was parsed, was nothing but a piece of content, and had this one. */
  learn(data: string, content: string): void {
    if (this.#misses >= PATIENCE) return;
    this.#misses += 1;
    const start = data.indexOf(MARK) + MARK.length;
    if (start < MARK.length || !data.startsWith(`${content}"`, start)) return;
    const head = data.slice(0, start);
    const tail = data.slice(start + content.length);
    const probe = firstChoice(parseObject(head + PROBE + tail) ?? {});
    if (textOf(probe?.delta, 'content') !== PROBE) return;
    this.#head = head;
    this.#tail = tail;
  }
}
