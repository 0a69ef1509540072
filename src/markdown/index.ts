import type { TextFormat, TextStream } from '../domain/chat/text-format.ts';
import { Blocks } from './blocks/blocks.ts';
import { Output } from './output.ts';

const BYTE_ORDER_MARK = '\ufeff';
const LINE_ENDING = /\r\n?/g;

/**
 * Converts Markdown to plain text, streamed or whole. README.md describes the module; docs/text-format.md has the
 * rules and the differences from CommonMark. Never throws; the cost is linear in the length of the text.
 */
export function createTextFormat(): TextFormat {
  return {
    stream: () => new MarkdownText(),
    whole: (markdown) => {
      const stream = new MarkdownText();
      return stream.push(markdown) + stream.end();
    },
  };
}

class MarkdownText implements TextStream {
  readonly #output = new Output();
  readonly #blocks = new Blocks(this.#output);
  #isFirst = true;
  /** Whether the last character was a carriage return; a line feed then belongs to the same line ending. */
  #afterReturn = false;

  push(markdown: string): string {
    if (!this.#afterReturn && this.#blocks.tryPlain(markdown)) return this.#output.take();
    if (markdown !== '') this.#blocks.feed(this.#normalize(markdown));
    return this.#output.take();
  }

  end(): string {
    this.#blocks.end();
    return this.#output.take();
  }

  #normalize(markdown: string): string {
    let text = markdown;
    if (this.#isFirst && text.startsWith(BYTE_ORDER_MARK)) text = text.slice(1);
    this.#isFirst = false;
    if (this.#afterReturn && text.startsWith('\n')) text = text.slice(1);
    this.#afterReturn = text.endsWith('\r');
    if (text.includes('\r')) text = text.replace(LINE_ENDING, '\n');
    return text.includes('\0') ? text.replaceAll('\0', '\ufffd') : text;
  }
}
