import type { FoundConversation, Instant } from './conversation.ts';

export interface Fork {
  readonly source: Pick<FoundConversation, 'id' | 'epoch'>;
  /** Of the new conversation. */
  readonly id: string;
  /** The `seq` of the last message to copy; null: all. */
  readonly until: number | null;
  /** Null: that of the source. */
  readonly title: string | null;
  readonly at: Instant;
}

/**
 * Nothing is left of a fork but `forked`:
 * - `streaming`: one of the messages is a reply that is being generated.
 * - `changed`: the source was deleted, or messages were superseded, while it was copied.
 */
export type ForkOutcome = 'forked' | 'streaming' | 'changed';

export interface ForkStore {
  /**
   * Copies the visible messages and the settings of a conversation in slices; the new one becomes visible at the end.
   * @throws AppError `database_unavailable`, `database_busy`
   */
  fork(fork: Fork): Promise<ForkOutcome>;
}
