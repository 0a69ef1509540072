import { timingSafeEqual } from 'node:crypto';
import {
  type ApiKey,
  type ApiKeyStore,
  isUsable,
  type KeyLimits,
  MAX_LIMITS,
  SCOPES,
  type Scope,
} from '../../domain/access/api-keys.ts';
import type { Instant } from '../../domain/conversations/conversation.ts';
import { AppError, type FieldError, isDatabaseError } from '../../domain/errors.ts';
import type { Clock, IdSource, Log } from '../../domain/runtime.ts';
import { RecentMap } from '../../util/recent-map.ts';
import { within } from '../../util/timers.ts';
import { hashOf, looksLikeKey, makeKey } from './api-key-format.ts';

/** How long a lookup is cached: a revoked key is rejected everywhere within this time. */
const FRESH_MS = 1000;
/** How long a verified key stays valid while the database is unavailable. */
const GRACE_MS = 60_000;
/** How long a recently verified key waits for the database. */
const LOOKUP_TIMEOUT_MS = 500;
const TOUCH_MS = 60_000;
/** For valid and invalid keys each, so that invalid keys evict no valid one. */
const MAX_REMEMBERED = 10_000;
const OWNER_MAX = 255;
/** Other texts are not sent to the store: its ASCII columns reject them. */
const ID = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/;

export interface ApiKeyRequest {
  readonly owner: string;
  readonly scopes: readonly Scope[];
  readonly expiresAt: Instant | null;
  /** Left out: the limits of the server. */
  readonly limits?: KeyLimits;
}

const SERVER_LIMITS: KeyLimits = { requestsPerMinute: null, openStreams: null };

export interface CreatedKey {
  /** Shown once; only its hash is stored. */
  readonly key: string;
  readonly apiKey: ApiKey;
}

interface Remembered {
  readonly apiKey: ApiKey | null;
  /** Monotonic. */
  readonly at: number;
}

interface ApiKeyServiceOptions {
  readonly store: ApiKeyStore;
  readonly clock: Clock;
  readonly ids: IdSource;
  readonly log: Log;
  /** Monotonic milliseconds. */
  readonly monotonic?: () => number;
}

export class ApiKeyService {
  readonly #store: ApiKeyStore;
  readonly #clock: Clock;
  readonly #ids: IdSource;
  readonly #log: Log;
  readonly #monotonic: () => number;
  /** By hash, so that no key stays in memory longer than its request. */
  readonly #good = new RecentMap<Remembered>(MAX_REMEMBERED);
  readonly #bad = new RecentMap<Remembered>(MAX_REMEMBERED);
  readonly #lookUps = new Map<string, Promise<ApiKey | null>>();
  readonly #touched = new RecentMap<Instant>(MAX_REMEMBERED);
  readonly #writes = new Set<Promise<void>>();
  /** Incremented whenever a cached key is dropped. */
  #epoch = 0;
  /** Until then, valid cached keys do not wait for a database that was unavailable. */
  #restUntil = 0;

  constructor({ store, clock, ids, log, monotonic = () => performance.now() }: ApiKeyServiceOptions) {
    this.#store = store;
    this.#clock = clock;
    this.#ids = ids;
    this.#log = log;
    this.#monotonic = monotonic;
  }

  /** @throws AppError `validation`, `database_unavailable` */
  async create(request: ApiKeyRequest): Promise<CreatedKey> {
    const { owner, scopes, expiresAt, limits = SERVER_LIMITS } = request;
    const now = this.#clock.now();
    const errors = [...validationErrors(request, now), ...limitErrors(limits)];
    if (errors.length > 0) throw new AppError('validation', 'Correct the listed fields', { errors });
    const { key, prefix, hash } = makeKey();
    const apiKey: ApiKey = {
      id: this.#ids.next(),
      prefix,
      owner,
      scopes: SCOPES.filter((scope) => scopes.includes(scope)),
      limits,
      createdAt: now,
      expiresAt,
      lastUsedAt: null,
      revokedAt: null,
    };
    await this.#store.add({ ...apiKey, hash });
    return { key, apiKey };
  }

  /** All keys, revoked ones too, newest first. */
  list(): Promise<ApiKey[]> {
    return this.#store.list();
  }

  /** Repeated calls change nothing. @returns null when there is no such key */
  async revoke(id: string): Promise<ApiKey | null> {
    if (!ID.test(id)) return null;
    const revoked = await this.#store.revoke(id, this.#clock.now());
    this.#forget(id);
    return revoked;
  }

  /**
   * Replaces a key by a new one with the same owner, scopes, limits and expiry, and revokes the old one.
   * @returns null when the id has no usable key
   */
  async rotate(id: string): Promise<CreatedKey | null> {
    if (!ID.test(id)) return null;
    const { key, prefix, hash } = makeKey();
    const successor = { id: this.#ids.next(), prefix, hash };
    const apiKey = await this.#store.replace(id, successor, this.#clock.now());
    this.#forget(id);
    return apiKey && { key, apiKey };
  }

  /** Whether any key is usable. */
  any(): Promise<boolean> {
    return this.#store.anyUsable(this.#clock.now());
  }

  /**
   * The record of a presented key; null for every reason why it is not valid. Accepts any string.
   *
   * While the database is unavailable, a key that was valid within the last minute stays valid, so that an outage
   * interrupts no running work; a revoked key can live that minute longer. Any other key gets
   * `database_unavailable`, because a 401 would make clients discard it.
   * @throws AppError `database_unavailable`
   */
  async authenticate(presented: string): Promise<ApiKey | null> {
    if (!looksLikeKey(presented)) return null;
    const hash = hashOf(presented);
    const known = this.#good.get(hash) ?? this.#bad.get(hash);
    const fresh = known !== undefined && this.#monotonic() - known.at < FRESH_MS;
    const apiKey = fresh ? known.apiKey : await this.#ask(hash, known);
    const now = this.#clock.now();
    if (!apiKey || !isUsable(apiKey, now)) return null;
    this.#touch(apiKey, now);
    return apiKey;
  }

  /** Whether this process has verified the key before. */
  remembers(presented: string): boolean {
    return looksLikeKey(presented) && this.#good.has(hashOf(presented));
  }

  /** Waits for pending writes; afterwards the store may be closed. */
  async close(): Promise<void> {
    await Promise.all(this.#writes);
  }

  async #ask(hash: string, known: Remembered | undefined): Promise<ApiKey | null> {
    const grace = known?.apiKey && this.#monotonic() - known.at < GRACE_MS ? known.apiKey : undefined;
    if (!grace) return this.#lookUp(hash);
    if (this.#monotonic() < this.#restUntil) return grace;
    const rest = () => {
      this.#restUntil = this.#monotonic() + FRESH_MS;
      return grace;
    };
    try {
      return await within(LOOKUP_TIMEOUT_MS, this.#lookUp(hash), rest);
    } catch (error) {
      if (isDatabaseError(error)) return rest();
      throw error;
    }
  }

  /** Requests with the same key share one lookup. */
  #lookUp(hash: string): Promise<ApiKey | null> {
    const running = this.#lookUps.get(hash);
    if (running) return running;
    const lookUp = this.#read(hash).finally(() => this.#lookUps.delete(hash));
    // After a timeout nothing awaits it any more.
    lookUp.catch(() => {});
    this.#lookUps.set(hash, lookUp);
    return lookUp;
  }

  async #read(hash: string): Promise<ApiKey | null> {
    // Before the query: later changes may not be in its result.
    const at = this.#monotonic();
    const epoch = this.#epoch;
    const stored = await this.#store.findByHash(hash);
    if (stored === null || !sameHash(stored.hash, hash) || !isUsable(stored, this.#clock.now())) {
      this.#good.delete(hash);
      this.#bad.set(hash, { apiKey: null, at });
      return null;
    }
    const { hash: _hash, ...apiKey } = stored;
    this.#bad.delete(hash);
    if (epoch === this.#epoch) this.#good.set(hash, { apiKey, at });
    return apiKey;
  }

  #touch({ id, lastUsedAt }: ApiKey, now: Instant): void {
    const last = Math.max(lastUsedAt ?? 0, this.#touched.get(id) ?? 0);
    if (now - last < TOUCH_MS) return;
    this.#touched.set(id, now);
    const write = this.#store
      .touch(id, now)
      .catch((error: unknown) => this.#log.warn({ err: error, key: id }, 'API key use not recorded'))
      .finally(() => this.#writes.delete(write));
    this.#writes.add(write);
  }

  /** In this process a revoked key is rejected immediately. */
  #forget(id: string): void {
    for (const [hash, { apiKey }] of this.#good) if (apiKey?.id === id) this.#good.delete(hash);
    // Pending lookups may hold the old state.
    this.#epoch += 1;
    this.#lookUps.clear();
  }
}

function sameHash(one: string, other: string): boolean {
  const [a, b] = [Buffer.from(one), Buffer.from(other)];
  return a.length === b.length && timingSafeEqual(a, b);
}

/** No invisible characters, and none that change the direction of text. */
const OWNER = new RegExp(`^[^\\p{Cc}\\p{Cf}\\p{Cs}\\p{Zl}\\p{Zp}]{1,${OWNER_MAX}}$`, 'u');

/** What is wrong with the name of an owner; undefined: nothing. */
export function ownerProblem(owner: string): string | undefined {
  if (OWNER.test(owner) && owner.trim() === owner) return undefined;
  return `must be 1 to ${OWNER_MAX} visible characters without surrounding spaces`;
}

function validationErrors({ owner, scopes, expiresAt }: ApiKeyRequest, now: Instant): FieldError[] {
  const errors: FieldError[] = [];
  const problem = ownerProblem(owner);
  if (problem !== undefined) errors.push({ path: 'owner', message: problem });
  const known: readonly string[] = SCOPES;
  const unknown = scopes.filter((scope) => !known.includes(scope));
  if (scopes.length === 0 || unknown.length > 0) {
    const named = unknown.length > 0 ? `; unknown: ${unknown.join(', ')}` : '';
    errors.push({ path: 'scopes', message: `must be one or more of ${SCOPES.join(', ')}${named}` });
  }
  if (expiresAt !== null && !(expiresAt > now)) {
    errors.push({ path: 'expires_at', message: 'must be a time in the future' });
  }
  return errors;
}

function limitErrors({ requestsPerMinute, openStreams }: KeyLimits): FieldError[] {
  const check = (path: string, value: number | null, max: number) =>
    value === null || (Number.isInteger(value) && value >= 0 && value <= max)
      ? []
      : [{ path, message: `must be a whole number from 0 to ${max}` }];
  return [
    ...check('requests', requestsPerMinute, MAX_LIMITS.requestsPerMinute),
    ...check('streams', openStreams, MAX_LIMITS.openStreams),
  ];
}
