import type { ModelReply, ModelRequest } from './model.ts';

export interface CacheHit {
  readonly reply: ModelReply;
  /** How long it would still be served, milliseconds. */
  readonly ttlMs: number;
}

/** Complete replies by what was sent to the model. Holds nothing when the cache is turned off. */
export interface ResponseCache {
  readonly enabled: boolean;
  /**
   * The key of exactly this request: equal requests and no others have equal keys.
   * @param owner whose replies they are, where nobody gets what another one was told
   */
  keyOf(request: ModelRequest, owner: string | null): string;
  get(key: string): CacheHit | undefined;
  set(key: string, reply: ModelReply): void;
}
