import type { ReplyFormat } from '../../domain/conversation.ts';
import type { FilterRule, FilterStream, WordFilters } from '../../domain/filter.ts';
import type { TextFormat, TextStream } from '../../domain/text-format.ts';
import type { Reply } from '../../services/chat/reply.ts';
import type { ReplyStream } from '../../services/chat/turn.ts';

/** A reply on its way to a reader. */
export interface RenderedStream extends TextStream {
  /** Whether it has ended before its end: what follows is not for readers. Undefined where that cannot be. */
  readonly blocked?: boolean;
}

/** A whole reply as its reader gets it. */
export interface RenderedReply {
  readonly text: string;
  /** Whether it ends before its end. */
  readonly blocked: boolean;
}

/** What readers get of a reply: in the form that was asked for, without the words that are not allowed. */
export class ReplyRenderer {
  readonly #text: TextFormat;
  readonly #rule: FilterRule | undefined;
  /** Offsets count what a reader got: whoever comes back while a reply is made gets it by the words it began with. */
  readonly #begun = new WeakMap<Reply, WordFilters>();

  /** @param rule undefined: every word goes out */
  constructor(text: TextFormat, rule: FilterRule | undefined) {
    this.#text = text;
    this.#rule = rule;
  }

  /** For one reader, from the beginning of the reply on. Undefined: it goes out as it comes. */
  stream(reply: Reply, format: ReplyFormat): RenderedStream | undefined {
    const text = format === 'text' ? this.#text.stream() : undefined;
    const filter = this.#filter(reply, format)?.stream(this.#rule?.action ?? 'mask');
    return text && filter ? new FilteredText(text, filter) : (filter ?? text);
  }

  /** @param markdown all of the reply */
  whole(reply: Reply, format: ReplyFormat, markdown: string): RenderedReply {
    const text = format === 'text' ? this.#text.whole(markdown) : markdown;
    const action = this.#rule?.action ?? 'mask';
    const filtered = this.#filter(reply, format)?.whole(text, action);
    if (!filtered) return { text, blocked: false };
    return { text: filtered.text, blocked: action === 'block' && filtered.hits.length > 0 };
  }

  /** UTF-16 units of all that a reader of an ended reply gets. */
  length({ reply, format }: ReplyStream): number {
    if (format === 'markdown' && !this.#rule) return reply.length;
    return this.whole(reply, format, reply.text).text.length;
  }

  #filter(reply: Reply, format: ReplyFormat) {
    if (!this.#rule) return undefined;
    const filters = this.#begun.get(reply) ?? this.#rule.words.filters;
    this.#begun.set(reply, filters);
    return filters[format];
  }
}

/** The words are looked for when the marks are gone. */
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
