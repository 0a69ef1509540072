import type { Access } from '../../domain/access/access.ts';
import type { PendingTurns } from '../../domain/chat/turns.ts';
import type { ConversationRepository, FoundConversation } from '../../domain/conversations/conversation.ts';
import type { ForkStore } from '../../domain/conversations/forks.ts';
import type { Retention } from '../../domain/conversations/retention.ts';
import { conversationBusy, messageNotFound, messageSuperseded } from '../../domain/errors.ts';
import type { Clock, IdSource } from '../../domain/runtime.ts';
import { refreshHistory } from './client-history.ts';
import { findConversation } from './revisions.ts';

/** Copies that run at the same time in this process, so that they leave connections to others. */
const PARALLEL = 2;
/** A copy of everything is tried again when messages were superseded meanwhile. */
const ATTEMPTS = 3;

export interface ForkRequest {
  /** The last message to copy; undefined: all. */
  readonly messageId: string | undefined;
  /** Undefined: that of the source. */
  readonly title: string | undefined;
}

interface ForkParts {
  readonly conversations: Pick<ConversationRepository, 'find' | 'message' | 'messages' | 'setHistory'>;
  readonly forks: ForkStore;
  readonly pending: Pick<PendingTurns, 'has' | 'flush'>;
  readonly clock: Clock;
  readonly ids: IdSource;
}

/** Copies conversations. */
export class ForkService {
  readonly #parts: ForkParts;
  readonly #retention: Retention;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(parts: ForkParts, retention: Retention) {
    this.#parts = parts;
    this.#retention = retention;
  }

  /**
   * @returns the id of the new conversation
   * @throws AppError `conversation_not_found`, `message_not_found`, `message_superseded`, `conversation_busy` when a
   * message is a reply that is being generated, `database_unavailable`, `database_busy`
   */
  async fork(sourceId: string, access: Access, request: ForkRequest): Promise<string> {
    await this.#enter();
    try {
      return await this.#fork(sourceId, access, request);
    } finally {
      this.#running -= 1;
      this.#waiting.shift()?.();
    }
  }

  async #enter(): Promise<void> {
    if (this.#running >= PARALLEL) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#running += 1;
  }

  async #fork(sourceId: string, access: Access, { messageId, title }: ForkRequest): Promise<string> {
    const { clock, ids, forks } = this.#parts;
    for (let attempt = 1; ; attempt++) {
      const activeSince = this.#retention.activeSince(clock.now());
      const source = await findConversation(this.#parts, sourceId, access, activeSince);
      const until = messageId === undefined ? null : await this.#seqOf(source, messageId);
      const id = ids.next();
      const outcome = await forks.fork({ source, id, until, title: title ?? null, at: clock.now() });
      if (outcome === 'forked') {
        await refreshHistory(this.#parts.conversations, id);
        return id;
      }
      if (outcome === 'streaming' || attempt === ATTEMPTS) throw conversationBusy();
    }
  }

  async #seqOf(source: FoundConversation, uid: string): Promise<number> {
    const message = await this.#parts.conversations.message(source, uid);
    if (!message) throw messageNotFound();
    if (message.status === 'superseded') throw messageSuperseded();
    return message.seq;
  }
}
