/** API keys: who may do what. The key itself is known to its holder only; here are its hash and what it is for. */
import type { Instant } from './conversation.ts';

export const SCOPES = ['chat', 'read', 'export', 'admin'] as const;

export type Scope = (typeof SCOPES)[number];

export interface ApiKey {
  readonly id: string;
  /** How the key begins (`ck_` and 8 characters): enough to recognise it, of no use for guessing it. */
  readonly prefix: string;
  /** Whose conversations and exports it opens; several keys may have one owner. */
  readonly owner: string;
  readonly scopes: readonly Scope[];
  readonly createdAt: Instant;
  /** Null: never. */
  readonly expiresAt: Instant | null;
  /** To the minute; null: never used. */
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
  /** All there ever were, newest first. */
  list(): Promise<ApiKey[]>;
  /** Revokes it at that time, unless it is revoked already; null when there is none. */
  revoke(id: string, at: Instant): Promise<ApiKey | null>;
  /**
   * Revokes a key and adds another one for the same owner, scopes and expiry, both or neither.
   * @returns null when no key that is good at `at` has the id
   */
  replace(
    id: string,
    successor: Pick<StoredApiKey, 'id' | 'prefix' | 'hash'>,
    at: Instant,
  ): Promise<ApiKey | null>;
  /** Notes a use, unless a later one is noted. */
  touch(id: string, at: Instant): Promise<void>;
  /** Whether there is a key that is neither revoked nor expired. */
  anyUsable(now: Instant): Promise<boolean>;
}

export function isUsable(key: ApiKey, now: Instant): boolean {
  return key.revokedAt === null && (key.expiresAt === null || now < key.expiresAt);
}
