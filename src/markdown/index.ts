import type { TextFormat, TextStream } from '../domain/text-format.ts';
import { Blocks } from './blocks/blocks.ts';
import { Output } from './output.ts';

const BYTE_ORDER_MARK = '\ufeff';
const LINE_ENDING = /\r\n?/g;

/**
 * The text form of Markdown: CommonMark with GFM tables, strikethrough and bare addresses, and with emphasis that
 * CJK punctuation does not hinder. The rules are in docs/text-format.md. Never throws; the cost is linear in the
 * length of the text, however it is cut.
 *
 * It differs from what the specifications say in these points:
 * - No reference definitions and footnotes (`[1]: …` is text): a link could depend on the end of the document.
 * - No strikethrough by single tildes: `3~5天，6~7天` are ranges.
 * - The header of a table has a pipe and is no lazy line: else every line would wait for the next one.
 * - A bare address ends at a character outside ASCII: in Chinese, text follows without a space. Emails need no form.
 * - Strikethrough and emphasis pair in one order of precedence: of two that cross, the one closed first counts.
 * - Containers nested deeper than a hundred levels are text: each line costs as much as it is nested.
 * - White space before a hard break goes; the white space at the start of lines inside inline HTML goes too.
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
  /** Whether the last character was a carriage return: a line feed after it belongs to the same line ending. */
  #afterReturn = false;

  push(markdown: string): string {
    if (!this.#afterReturn && this.#blocks.quick(markdown)) return this.#output.take();
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
