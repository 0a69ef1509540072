import type { ContentPart, HistoryMessage } from '../../../domain/conversations/conversation.ts';
import { AppError } from '../../../domain/errors.ts';
import type { FilterRule } from '../../../domain/filter.ts';

/** Filters user messages, as plain text, before the model gets them. */
export class InputFilter {
  readonly #rule: FilterRule;
  readonly #storesOriginal: boolean;

  constructor(rule: FilterRule, storesOriginal: boolean) {
    this.#rule = rule;
    this.#storesOriginal = storesOriginal;
  }

  /** @throws AppError `content_blocked` */
  apply(message: string): { readonly sent: string; readonly stored: string } {
    const { words, action } = this.#rule;
    const { text, hits } = words.filters.text.whole(message, action);
    if (hits.length === 0) return { sent: message, stored: message };
    if (action === 'block') throw new AppError('content_blocked');
    return { sent: text, stored: this.#storesOriginal ? message : text };
  }

  /** For an earlier message: masks it, even if the action is `block`. */
  mask(message: string): { readonly sent: string; readonly stored: string } {
    const { text } = this.#rule.words.filters.text.whole(message, 'mask');
    return { sent: text, stored: this.#storesOriginal ? message : text };
  }

  /** Masks earlier messages, even if the action is `block`, because otherwise the conversation could not continue. */
  maskHistory(messages: readonly HistoryMessage[]): HistoryMessage[] {
    const masked = (text: string) => this.mask(text).sent;
    return messages.map((message) => {
      if (message.role === 'assistant') return message;
      const parts = changeTexts(message.parts, masked);
      return { ...message, content: masked(message.content), ...(parts && { parts }) };
    });
  }
}

/** The parts with other texts; images stay. */
export function changeTexts(
  parts: readonly ContentPart[] | undefined,
  change: (text: string) => string,
): ContentPart[] | undefined {
  return parts?.map((part) => (part.type === 'text' ? { ...part, text: change(part.text) } : part));
}
