import { timingSafeEqual } from 'node:crypto';
import { type ApiKey, type ApiKeyStore, isUsable, SCOPES, type Scope } from '../../domain/api-keys.ts';
import type { Instant } from '../../domain/conversation.ts';
import { AppError, type FieldError, isUnavailable } from '../../domain/errors.ts';
import type { Clock, IdSource, Log } from '../../domain/runtime.ts';
import { within } from '../../util/timers.ts';
import { hashOf, looksLikeKey, makeKey } from './api-key-format.ts';

/** How long an answer of the store is gone by: a revoked key is refused everywhere within this time. */
const FRESH_MS = 1000;
/** How long a key that was good goes on being good while the database is away. */
const GRACE_MS = 60_000;
/** How long somebody whose key was good a moment ago waits for a database that does not answer. */
const PATIENCE_MS = 500;
const TOUCH_MS = 60_000;
/** Of each kind; so many unknown ones push no good one out. */
const MAX_REMEMBERED = 10_000;
const OWNER_MAX = 255;
/** Nothing else is for the store, whose columns mind what they are compared with. */
const ID = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/;

export interface ApiKeyRequest {
  readonly owner: string;
  readonly scopes: readonly Scope[];
  readonly expiresAt: Instant | null;
}

export interface CreatedKey {
  /** To be shown once: it is stored nowhere. */
  readonly key: string;
  readonly apiKey: ApiKey;
}

interface Remembered {
  readonly apiKey: ApiKey | null;
  /** Monotonic. */
  readonly at: number;
}

interface Parts {
  readonly store: ApiKeyStore;
  readonly clock: Clock;
  readonly ids: IdSource;
  readonly log: Log;
  /** Milliseconds that no change of the clock moves. */
  readonly monotonic?: () => number;
}

export class ApiKeyService {
  readonly #store: ApiKeyStore;
  readonly #clock: Clock;
  readonly #ids: IdSource;
  readonly #log: Log;
  readonly #monotonic: () => number;
  /** By hash: no key stays in memory longer than its request. */
  readonly #good = new RecentMap<Remembered>(MAX_REMEMBERED);
  readonly #bad = new RecentMap<Remembered>(MAX_REMEMBERED);
  readonly #lookUps = new Map<string, Promise<ApiKey | null>>();
  readonly #touched = new RecentMap<Instant>(MAX_REMEMBERED);
  readonly #writes = new Set<Promise<void>>();
  /** Counts what is forgotten. */
  #epoch = 0;
  /** Until then a database that was away is not asked for those who can do without. */
  #restUntil = 0;

  constructor({ store, clock, ids, log, monotonic = () => performance.now() }: Parts) {
    this.#store = store;
    this.#clock = clock;
    this.#ids = ids;
    this.#log = log;
    this.#monotonic = monotonic;
  }

  /** @throws AppError `validation`, `database_unavailable` */
  async create({ owner, scopes, expiresAt }: ApiKeyRequest): Promise<CreatedKey> {
    const now = this.#clock.now();
    const errors = validationErrors({ owner, scopes, expiresAt }, now);
    if (errors.length > 0) throw new AppError('validation', 'The key cannot be made', { errors });
    const { key, prefix, hash } = makeKey();
    const apiKey: ApiKey = {
      id: this.#ids.next(),
      prefix,
      owner,
      scopes: SCOPES.filter((scope) => scopes.includes(scope)),
      createdAt: now,
      expiresAt,
      lastUsedAt: null,
      revokedAt: null,
    };
    await this.#store.add({ ...apiKey, hash });
    return { key, apiKey };
  }

  /** All there ever were, newest first. */
  list(): Promise<ApiKey[]> {
    return this.#store.list();
  }

  /** Again changes nothing. @returns null when there is no such key */
  async revoke(id: string): Promise<ApiKey | null> {
    if (!ID.test(id)) return null;
    const revoked = await this.#store.revoke(id, this.#clock.now());
    this.#forget(id);
    return revoked;
  }

  /**
   * A new key for the same owner, scopes and expiry; the old one is revoked at once.
   * @returns null when no key that is still good has the id
   */
  async rotate(id: string): Promise<CreatedKey | null> {
    if (!ID.test(id)) return null;
    const { key, prefix, hash } = makeKey();
    const successor = { id: this.#ids.next(), prefix, hash };
    const apiKey = await this.#store.replace(id, successor, this.#clock.now());
    this.#forget(id);
    return apiKey && { key, apiKey };
  }

  /** Whether any key can be used at all: a server that asks for keys and has none lets nobody in. */
  any(): Promise<boolean> {
    return this.#store.anyUsable(this.#clock.now());
  }

  /**
   * Whose key it is; null, for whatever reason, when it is not good. Any string will do.
   *
   * With the database away, a key that was good within the last minute goes on being good: an outage then ends no
   * running work, and nobody gains by it more than the minute that a revoked key is good for longer. Any other key is
   * unknown rather than wrong: a 401 would make its holder throw it away.
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

  /** Whether the key was good here a while ago, as far as is remembered. */
  remembers(presented: string): boolean {
    return looksLikeKey(presented) && this.#good.has(hashOf(presented));
  }

  /** Waits for what is still being noted; the store may be closed then. */
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
      return await within(PATIENCE_MS, this.#lookUp(hash), rest);
    } catch (error) {
      if (isUnavailable(error)) return rest();
      throw error;
    }
  }

  /** One look-up for all who come with the same key meanwhile. */
  #lookUp(hash: string): Promise<ApiKey | null> {
    const running = this.#lookUps.get(hash);
    if (running) return running;
    const lookUp = this.#read(hash).finally(() => this.#lookUps.delete(hash));
    // Whoever went on without it has left nobody to hear of its failure.
    lookUp.catch(() => {});
    this.#lookUps.set(hash, lookUp);
    return lookUp;
  }

  async #read(hash: string): Promise<ApiKey | null> {
    // Before the question: what changes while it is under way may not be in the answer.
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
      .catch((error: unknown) => this.#log.warn({ err: error, key: id }, 'the use of a key was not noted'))
      .finally(() => this.#writes.delete(write));
    this.#writes.add(write);
  }

  /** In this process a revoked key is not good even for the second that it is elsewhere. */
  #forget(id: string): void {
    for (const [hash, { apiKey }] of this.#good) if (apiKey?.id === id) this.#good.delete(hash);
    // What an answer under way says may be of before.
    this.#epoch += 1;
    this.#lookUps.clear();
  }
}

/** A map that forgets what was set longest ago when it is full. */
class RecentMap<V> extends Map<string, V> {
  readonly #max: number;

  constructor(max: number) {
    super();
    this.#max = max;
  }

  override set(key: string, value: V): this {
    this.delete(key);
    if (this.size >= this.#max) for (const oldest of this.keys().take(1)) this.delete(oldest);
    return super.set(key, value);
  }
}

function sameHash(one: string, other: string): boolean {
  const [a, b] = [Buffer.from(one), Buffer.from(other)];
  return a.length === b.length && timingSafeEqual(a, b);
}

/** Nothing that is invisible, or would turn a line of a list around. */
const OWNER = new RegExp(`^[^\\p{Cc}\\p{Cf}\\p{Cs}\\p{Zl}\\p{Zp}]{1,${OWNER_MAX}}$`, 'u');

function validationErrors({ owner, scopes, expiresAt }: ApiKeyRequest, now: Instant): FieldError[] {
  const faults: FieldError[] = [];
  if (!OWNER.test(owner) || owner.trim() !== owner) {
    const message = `must be 1 to ${OWNER_MAX} visible characters without blanks around them`;
    faults.push({ path: 'owner', message });
  }
  const known: readonly string[] = SCOPES;
  const unknown = scopes.filter((scope) => !known.includes(scope));
  if (scopes.length === 0 || unknown.length > 0) {
    const named = unknown.length > 0 ? `; unknown: ${unknown.join(', ')}` : '';
    faults.push({ path: 'scopes', message: `must be some of ${SCOPES.join(', ')}${named}` });
  }
  if (expiresAt !== null && !(expiresAt > now)) {
    faults.push({ path: 'expires_at', message: 'must be a time that is still to come' });
  }
  return faults;
}
