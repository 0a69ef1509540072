import type { ModelReply, ModelRequest } from './model.ts';

export interface CacheHit {
  readonly reply: ModelReply;
  /** The remaining time, in milliseconds. */
  readonly ttlMs: number;
}

/** Complete replies by the request to the model. Empty when disabled. */
export interface ResponseCache {
  readonly enabled: boolean;
  /**
   * Equal requests, and no others, have equal keys.
   * @param owner null: the reply is shared by all owners
   */
  keyOf(request: ModelRequest, owner: string | null): string;
  get(key: string): CacheHit | undefined;
  set(key: string, reply: ModelReply): void;
}
