import type { TextFormat, TextStream } from '../../domain/chat/text-format.ts';
import type { ReplyFormat } from '../../domain/conversations/conversation.ts';
import type { FilterRule, FilterStream, WordFilters } from '../../domain/filter.ts';
import type { Reply } from '../../services/chat/reply.ts';
import type { Turn } from '../../services/chat/turn.ts';
import { piecesOf } from '../../util/pieces.ts';

/** Renders a reply while it arrives. */
export interface RenderedStream extends TextStream {
  /** Whether the content filter has ended the output. Undefined without a filter. */
  readonly blocked?: boolean;
}

export interface RenderedReply {
  readonly text: string;
  /** Whether the content filter has cut the text. */
  readonly blocked: boolean;
}

/** Renders replies for readers: in the requested format, without blocked words. */
export class ReplyRenderer {
  readonly #text: TextFormat;
  readonly #rule: FilterRule | undefined;
  /** Offsets count rendered output, so all readers of a reply get the word list with which it was first rendered. */
  readonly #filters = new WeakMap<Reply, WordFilters>();

  /** @param rule undefined: no filter */
  constructor(text: TextFormat, rule: FilterRule | undefined) {
    this.#text = text;
    this.#rule = rule;
  }

  /** For one reader, from the beginning of the reply. Undefined: the reply needs no rendering. */
  stream(reply: Reply, format: ReplyFormat): RenderedStream | undefined {
    const text = format === 'text' ? this.#text.stream() : undefined;
    const filter = this.#filter(reply, format)?.stream(this.#rule?.action ?? 'mask');
    return text && filter ? new FilteredText(text, filter) : (filter ?? text);
  }

  /** @param markdown the whole reply */
  async whole(reply: Reply, format: ReplyFormat, markdown: string): Promise<RenderedReply> {
    const stream = this.stream(reply, format);
    if (!stream) return { text: markdown, blocked: false };
    let text = '';
    for await (const piece of piecesOf(markdown)) text += stream.push(piece);
    text += stream.end();
    return { text, blocked: stream.blocked ?? false };
  }

  /** The reasoning of a reply without blocked words; undefined without any. */
  async reasoning(reply: Reply, reasoning: string | null): Promise<string | undefined> {
    if (reasoning === null) return undefined;
    const { text } = await this.whole(reply, 'markdown', reasoning);
    return text === '' ? undefined : text;
  }

  /**
   * For one reader. Undefined: the turn has not asked for the reasoning, or the reader is beyond it.
   * @param offset where the reader resumes the text
   */
  reasoningStream({ wantsReasoning, reply }: Turn, offset: number): (() => RenderedStream) | undefined {
    if (!wantsReasoning || offset > 0) return undefined;
    return () => this.stream(reply, 'markdown') ?? UNCHANGED;
  }

  /**
   * The length of an ended reply as rendered, UTF-16 units.
   * @throws the reason of `signal` when it aborts
   */
  async length({ reply, format }: Turn, signal: AbortSignal): Promise<number> {
    const stream = this.stream(reply, format);
    if (!stream) return reply.length;
    let length = 0;
    for await (const piece of piecesOf(reply.text, signal)) length += stream.push(piece).length;
    return length + stream.end().length;
  }

  #filter(reply: Reply, format: ReplyFormat) {
    if (!this.#rule) return undefined;
    const filters = this.#filters.get(reply) ?? this.#rule.words.filters;
    this.#filters.set(reply, filters);
    return filters[format];
  }
}

const UNCHANGED: RenderedStream = { push: (text) => text, end: () => '' };

/** Removes the Markdown first, then filters the text. */
class FilteredText implements RenderedStream {
  readonly #text: TextStream;
  readonly #filter: FilterStream;

  constructor(text: TextStream, filter: FilterStream) {
    this.#text = text;
    this.#filter = filter;
  }

  get blocked(): boolean {
    return this.#filter.blocked;
  }

  push(markdown: string): string {
    return this.blocked ? '' : this.#filter.push(this.#text.push(markdown));
  }

  end(): string {
    return this.blocked ? '' : this.#filter.push(this.#text.end()) + this.#filter.end();
  }
}
