import type { ContextMessage, HistoryMessage, MessageStatus, Role } from './conversation.ts';

/** The parts of a stored message that decide about its place in the context. */
export interface PastMessage {
  readonly uid: string;
  readonly role: Role | string;
  readonly content: string;
  readonly status: MessageStatus | string;
  readonly replyTo: string | null;
}

/**
 * Collects the newest complete turns of a conversation: a user message with its newest reply that has ended and has
 * text. A user message without such a reply is left out.
 */
export class ContextTurns {
  readonly #wanted: number;
  readonly #except: string | undefined;
  readonly #turns: [question: PastMessage, reply: PastMessage][] = [];
  readonly #replies = new Map<string, PastMessage>();

  /**
   * @param limit of messages; an odd number counts as one less
   * @param except the uid of a user message to leave out
   */
  constructor(limit: number, except?: string) {
    this.#wanted = Math.floor(limit / 2);
    this.#except = except;
  }

  get full(): boolean {
    return this.#turns.length >= this.#wanted;
  }

  /** Messages must come newest first: all replies before their user message. */
  addOlder(message: PastMessage): void {
    const { uid, role, replyTo, status, content } = message;
    if (role === 'user') {
      const reply = this.#replies.get(uid);
      if (reply && uid !== this.#except) this.#turns.push([message, reply]);
    } else if (replyTo !== null && status !== 'streaming' && content !== '') {
      if (!this.#replies.has(replyTo)) this.#replies.set(replyTo, message);
    }
  }

  /** Oldest first. */
  context(): HistoryMessage[] {
    return this.#turns
      .slice(0, this.#wanted)
      .reverse()
      .flatMap(([question, reply]): HistoryMessage[] => [
        { role: 'user', content: question.content, uid: question.uid },
        { role: 'assistant', content: reply.content, uid: reply.uid },
      ]);
  }
}

/** Four bytes a token is common for English and close for Chinese. */
export function estimatedTokens(text: string): number {
  return Math.ceil(Buffer.byteLength(text) / 4);
}

/** The newest turns that have at most `maxTokens` estimated tokens. Messages begin with a question. */
export function turnsWithin<T extends ContextMessage>(
  messages: readonly T[],
  maxTokens: number,
): readonly T[] {
  let left = maxTokens;
  let from = messages.length;
  for (const [at, { role, content }] of [...messages.entries()].reverse()) {
    left -= estimatedTokens(content);
    if (left < 0) break;
    if (role === 'user') from = at;
  }
  return messages.slice(from);
}

/**
 * The messages without their oldest turns, at least one of them. What is before the first question (the system prompt)
 * and the last question stay. Undefined when there is no turn to leave out.
 * @param share of the estimated tokens that may remain; undefined: half of the turns
 */
export function withoutOldestTurns(
  messages: readonly ContextMessage[],
  share: number | undefined,
): ContextMessage[] | undefined {
  const questions = messages.flatMap(({ role }, at) => (role === 'user' ? [at] : []));
  const [first, ...later] = questions;
  const last = later.at(-1);
  if (first === undefined || last === undefined) return undefined;
  const half = later[Math.ceil(later.length / 2) - 1];
  let left = tokensOf(messages);
  const target = left * (share ?? 1);
  let at = first;
  const fits = later.find((next) => {
    left -= tokensOf(messages.slice(at, next));
    at = next;
    return left <= target;
  });
  const from = (share === undefined ? half : fits) ?? last;
  return withoutOldest(messages, from - first);
}

/** Without the first `count` messages after the system prompt. */
export function withoutOldest(messages: readonly ContextMessage[], count: number): ContextMessage[] {
  const first = messages.findIndex(({ role }) => role === 'user');
  return messages.toSpliced(first, count);
}

function tokensOf(messages: readonly ContextMessage[]): number {
  return messages.reduce((sum, { content }) => sum + estimatedTokens(content), 0);
}
