import type { ContextMessage, MessageStatus, Role } from './conversation.ts';

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
  context(): ContextMessage[] {
    return this.#turns
      .slice(0, this.#wanted)
      .reverse()
      .flatMap(([question, reply]): ContextMessage[] => [
        { role: 'user', content: question.content },
        { role: 'assistant', content: reply.content },
      ]);
  }
}
