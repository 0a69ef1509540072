import type { ContextMessage } from '../../domain/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { FilterRule } from '../../domain/filter.ts';

/** A message that was judged. */
export interface JudgedMessage {
  /** What the model is asked. */
  readonly asked: string;
  readonly stored: string;
}

/** Judges what callers say, as plain text, before the model gets it. */
export class InputFilter {
  readonly #rule: FilterRule;
  readonly #storesOriginal: boolean;

  constructor(rule: FilterRule, storesOriginal: boolean) {
    this.#rule = rule;
    this.#storesOriginal = storesOriginal;
  }

  /** @throws AppError `content_blocked` */
  judge(message: string): JudgedMessage {
    const { words, action } = this.#rule;
    const { text, hits } = words.filters.text.whole(message, action);
    if (hits.length === 0) return { asked: message, stored: message };
    if (action === 'block') throw new AppError('content_blocked');
    return { asked: text, stored: this.#storesOriginal ? message : text };
  }

  /**
   * What was said before. It is masked even where such a message would be refused today: that conversation could not
   * go on otherwise.
   */
  past(messages: readonly ContextMessage[]): ContextMessage[] {
    const { text: filter } = this.#rule.words.filters;
    return messages.map((message) =>
      message.role === 'user' ? { ...message, content: filter.whole(message.content, 'mask').text } : message,
    );
  }
}
