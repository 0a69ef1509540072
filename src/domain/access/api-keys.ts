/** API keys. Only the hash of a key is stored. */
import type { Instant } from '../conversations/conversation.ts';

export const SCOPES = ['chat', 'read', 'export', 'metrics', 'admin'] as const;

export type Scope = (typeof SCOPES)[number];

/** Limits of one key in place of those of the server; null: the server's, 0: no limit. */
export interface KeyLimits {
  readonly requestsPerMinute: number | null;
  readonly openStreams: number | null;
}

export const MAX_LIMITS = { requestsPerMinute: 1_000_000_000, openStreams: 1_000_000 } as const;

export interface ApiKey {
  readonly id: string;
  /** How the key begins (`ck_` and 8 characters): enough to recognize it, useless for guessing it. */
  readonly prefix: string;
  /** Owner of the conversations and exports it gives access to; several keys may share one. */
  readonly owner: string;
  readonly scopes: readonly Scope[];
  readonly limits: KeyLimits;
  readonly createdAt: Instant;
  /** Null: never. */
  readonly expiresAt: Instant | null;
  /** Accurate to the minute; null: never used. */
  readonly lastUsedAt: Instant | null;
  readonly revokedAt: Instant | null;
}

export interface StoredApiKey extends ApiKey {
  /** SHA-256 of the whole key, hexadecimal. */
  readonly hash: string;
}

/** Keys as rows. Rejects with AppError `database_unavailable`. */
export interface ApiKeyStore {
  add(key: StoredApiKey): Promise<void>;
  findByHash(hash: string): Promise<StoredApiKey | null>;
  /** All keys, revoked ones too, newest first. */
  list(): Promise<ApiKey[]>;
  /** Revokes a key unless it is revoked already; null when there is none. */
  revoke(id: string, at: Instant): Promise<ApiKey | null>;
  /**
   * Atomically revokes a key and adds a successor with the same owner, scopes, limits and expiry.
   * @returns null when the id has no usable key
   */
  replace(
    id: string,
    successor: Pick<StoredApiKey, 'id' | 'prefix' | 'hash'>,
    at: Instant,
  ): Promise<ApiKey | null>;
  /** Records a use, unless a later one is recorded. */
  touch(id: string, at: Instant): Promise<void>;
  /** Whether any key is neither revoked nor expired. */
  anyUsable(now: Instant): Promise<boolean>;
}

export function isUsable(key: ApiKey, now: Instant): boolean {
  return key.revokedAt === null && (key.expiresAt === null || now < key.expiresAt);
}
