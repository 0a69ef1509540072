import type { Conversation, Instant } from './conversation.ts';

type Activity = Pick<Conversation, 'lastActive' | 'pinned'>;

/** How long a conversation is kept after its last activity. A pinned one is kept until it is unpinned. */
export class Retention {
  readonly #ttlMs: number;

  /** @param ttlMs 0: conversations never expire */
  constructor(ttlMs: number) {
    this.#ttlMs = ttlMs;
  }

  get isForever(): boolean {
    return this.#ttlMs === 0;
  }

  /** Conversations last active before this instant are expired, unless they are pinned. */
  activeSince(now: Instant): Instant {
    return this.isForever ? 0 : now - this.#ttlMs;
  }

  /** An expired conversation does not exist for callers, purged or not. */
  isExpired({ lastActive, pinned }: Activity, now: Instant): boolean {
    return !pinned && lastActive < this.activeSince(now);
  }

  /** Null: never. */
  expiresAt({ lastActive, pinned }: Activity): Instant | null {
    return this.isForever || pinned ? null : lastActive + this.#ttlMs;
  }
}
