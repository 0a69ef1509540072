import type { ContextMessage, MessageStatus, Role } from './conversation.ts';

/** What of a stored message decides whether and where it goes into the context of the next question. */
export interface PastMessage {
  readonly uid: string;
  readonly role: Role | string;
  readonly content: string;
  readonly status: MessageStatus | string;
  readonly replyTo: string | null;
}

/**
 * Gathers the newest whole turns of a conversation. A question counts together with its newest reply that says
 * something and is not being written any more; one without is left out.
 */
export class ContextTurns {
  readonly #wanted: number;
  readonly #except: string | undefined;
  readonly #turns: [question: PastMessage, reply: PastMessage][] = [];
  readonly #replies = new Map<string, PastMessage>();

  /**
   * @param limit messages at most; an odd number is one less
   * @param except the uid of a question that is left out
   */
  constructor(limit: number, except?: string) {
    this.#wanted = Math.floor(limit / 2);
    this.#except = except;
  }

  get full(): boolean {
    return this.#turns.length >= this.#wanted;
  }

  /** Messages come newest first, so all replies to a question have been seen when the question comes. */
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
