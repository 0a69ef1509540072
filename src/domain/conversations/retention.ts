import type { Instant } from './conversation.ts';

/** How long a conversation is kept after its last activity. */
export class Retention {
  readonly #ttlMs: number;

  /** @param ttlMs 0: conversations never expire */
  constructor(ttlMs: number) {
    this.#ttlMs = ttlMs;
  }

  get isForever(): boolean {
    return this.#ttlMs === 0;
  }

  /** Conversations last active before this instant are expired. */
  activeSince(now: Instant): Instant {
    return this.isForever ? 0 : now - this.#ttlMs;
  }

  /** Null: never. */
  expiresAt(lastActive: Instant): Instant | null {
    return this.isForever ? null : lastActive + this.#ttlMs;
  }
}
