import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate as immediate } from 'node:timers/promises';
import fc from 'fast-check';
import type { ApiKey, ApiKeyStore, Scope, StoredApiKey } from '../../../../src/domain/access/api-keys.ts';
import { AppError } from '../../../../src/domain/errors.ts';
import { createIdSource } from '../../../../src/ids.ts';
import { makeKey } from '../../../../src/services/access/api-key-format.ts';
import { ApiKeyService } from '../../../../src/services/access/api-keys.ts';
import { anyCharacter } from '../../../support/any-character.ts';
import { silentLog } from '../../../support/fakes.ts';

const NOON = Date.UTC(2024, 2, 21, 12);
const MINUTE = 60_000;

/** Keys in memory; `away` and `frozen` are what databases do. */
class FakeStore implements ApiKeyStore {
  readonly keys: StoredApiKey[] = [];
  readonly touches: [id: string, at: number][] = [];
  lookUps = 0;
  state: 'up' | 'away' | 'frozen' = 'up';
  /** Runs when a look-up has its answer and has not told it yet. */
  meanwhile: () => Promise<unknown> = async () => {};

  async add(key: StoredApiKey): Promise<void> {
    this.keys.push(key);
  }

  async findByHash(hash: string): Promise<StoredApiKey | null> {
    this.lookUps += 1;
    if (this.state === 'away') throw new AppError('database_unavailable');
    if (this.state === 'frozen') await new Promise(() => {});
    const found = this.keys.find((key) => key.hash === hash) ?? null;
    await this.meanwhile();
    return found;
  }

  async list(): Promise<ApiKey[]> {
    return this.keys;
  }

  async revoke(id: string, at: number): Promise<ApiKey | null> {
    return this.#change(id, { revokedAt: at });
  }

  async replace(id: string, successor: Pick<StoredApiKey, 'id' | 'prefix' | 'hash'>, at: number) {
    const old = this.#change(id, { revokedAt: at });
    if (!old) return null;
    const made = { ...old, ...successor, revokedAt: null };
    this.keys.push(made);
    return made;
  }

  async touch(id: string, at: number): Promise<void> {
    this.touches.push([id, at]);
    this.#change(id, { lastUsedAt: at });
  }

  async anyUsable(): Promise<boolean> {
    return this.keys.length > 0;
  }

  #change(id: string, changes: Partial<StoredApiKey>): StoredApiKey | null {
    const index = this.keys.findIndex((key) => key.id === id);
    const old = this.keys[index];
    if (!old) return null;
    const changed = { ...old, ...changes };
    this.keys[index] = changed;
    return changed;
  }
}

function setup() {
  const store = new FakeStore();
  const time = { wall: NOON, monotonic: 0 };
  const keys = new ApiKeyService({
    store,
    clock: { now: () => time.wall },
    ids: createIdSource(),
    log: silentLog,
    monotonic: () => time.monotonic,
  });
  const pass = (ms: number) => {
    time.wall += ms;
    time.monotonic += ms;
  };
  const create = (expiresAt: number | null = null, scopes: readonly Scope[] = ['chat']) =>
    keys.create({ owner: 'team blue', scopes, expiresAt });
  return { store, keys, time, pass, create };
}

const away = { code: 'database_unavailable', status: 503 };

describe('creating a key', () => {
  it('stores its hash and never itself', async () => {
    const { keys, store, create } = setup();
    const { key, apiKey } = await create(NOON + MINUTE, ['export', 'chat', 'chat']);
    assert.deepEqual(apiKey.scopes, ['chat', 'export']);
    assert.equal(apiKey.prefix, key.slice(0, 11));
    assert.equal(JSON.stringify(store.keys).includes(key.slice(12)), false);
    assert.equal('hash' in apiKey, false);
    assert.equal((await keys.authenticate(key))?.id, apiKey.id);
  });

  it('rejects invalid owners, scopes and times, and names each', async () => {
    const { keys } = setup();
    const strange = 'root' as Scope;
    const limits = { requestsPerMinute: 0.5, openStreams: -1 };
    const request = { owner: 'a\u202eb', scopes: ['chat', strange] as const, expiresAt: NOON, limits };
    await assert.rejects(keys.create(request), {
      code: 'validation',
      errors: [
        { path: 'owner', message: 'must be 1 to 255 visible characters without surrounding spaces' },
        {
          path: 'scopes',
          message: 'must be one or more of chat, read, export, metrics, admin; unknown: root',
        },
        { path: 'expires_at', message: 'must be a time in the future' },
        { path: 'requests', message: 'must be a whole number from 0 to 1000000000' },
        { path: 'streams', message: 'must be a whole number from 0 to 1000000' },
      ],
    });
    for (const owner of ['', ' ', ' a', 'a\n', 'a\0b', '\ud800', 'x'.repeat(256)]) {
      await assert.rejects(keys.create({ owner, scopes: ['chat'], expiresAt: null }), { code: 'validation' });
    }
    for (const owner of ['x'.repeat(255), '研发部 😀', "Robert'); DROP TABLE api_keys;--"]) {
      assert.equal((await keys.create({ owner, scopes: ['chat'], expiresAt: null })).apiKey.owner, owner);
    }
    await assert.rejects(keys.create({ owner: 'a', scopes: [], expiresAt: null }), { code: 'validation' });
    const expiresAt = Number.NaN;
    await assert.rejects(keys.create({ owner: 'a', scopes: ['chat'], expiresAt }), { code: 'validation' });
  });
});

describe('revoking a key', () => {
  it('does not look up a malformed id', async () => {
    const { keys, store } = setup();
    store.revoke = store.replace = () => assert.fail('the store was asked');
    for (const id of ['', '钥匙', '\0', "' OR 1=1 --", 'ck_abcdefgh', 'x'.repeat(36)]) {
      assert.equal(await keys.revoke(id), null);
      assert.equal(await keys.rotate(id), null);
    }
  });
});

describe('verifying a key', () => {
  it('returns null for an unknown, expired or revoked key', async () => {
    const { keys, pass, create } = setup();
    const expired = await create(NOON + MINUTE);
    const revoked = await create();
    await keys.revoke(revoked.apiKey.id);
    pass(MINUTE);
    for (const key of [makeKey().key, expired.key, revoked.key]) {
      assert.equal(await keys.authenticate(key), null);
      assert.equal(await keys.authenticate(key), null);
    }
  });

  it('ends at the millisecond of its expiry, cached or not', async () => {
    const { keys, pass, create } = setup();
    const { key } = await create(NOON + 500);
    pass(499);
    assert.ok(await keys.authenticate(key));
    pass(1);
    assert.equal(await keys.authenticate(key), null);
  });

  it('throws for no text, and does not look up malformed keys', async () => {
    const { keys, store, create } = setup();
    const { key } = await create();
    const strange = ['', '\0', "' OR 1=1 --", `${key}\0`, key.slice(1), key.toUpperCase(), 'ck_'.repeat(1e6)];
    for (const text of strange) assert.equal(await keys.authenticate(text), null);
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: anyCharacter, maxLength: 200 }), async (text) => {
        assert.equal(await keys.authenticate(text), null);
        assert.equal(await keys.authenticate(key.slice(0, 12) + text), null);
      }),
    );
    assert.equal(store.lookUps, 0);
  });

  it('looks a key up once a second, valid or unknown, for all concurrent requests', async () => {
    const { keys, store, pass, create } = setup();
    const good = (await create()).key;
    for (const key of [good, makeKey().key]) {
      store.lookUps = 0;
      await Promise.all(Array.from({ length: 20 }, () => keys.authenticate(key)));
      pass(999);
      await keys.authenticate(key);
      assert.equal(store.lookUps, 1);
      pass(1);
      await keys.authenticate(key);
      assert.equal(store.lookUps, 2);
    }
  });

  it('sees a revocation of another process within a second, and its own immediately', async () => {
    const { keys, store, pass, create } = setup();
    const [theirs, ours, replaced] = [await create(), await create(), await create()];
    for (const { key } of [theirs, ours, replaced]) assert.ok(await keys.authenticate(key));
    await store.revoke(theirs.apiKey.id, NOON);
    await keys.revoke(ours.apiKey.id);
    const next = await keys.rotate(replaced.apiKey.id);
    assert.equal(await keys.authenticate(ours.key), null);
    assert.equal(await keys.authenticate(replaced.key), null);
    assert.equal((await keys.authenticate(next?.key ?? ''))?.owner, 'team blue');
    pass(1000);
    assert.equal(await keys.authenticate(theirs.key), null);
  });

  it('does not cache a lookup that a revocation overtook', async () => {
    const { keys, store, create } = setup();
    const { key, apiKey } = await create();
    store.meanwhile = async () => {
      store.meanwhile = async () => {};
      await keys.revoke(apiKey.id);
    };
    await keys.authenticate(key);
    assert.equal(await keys.authenticate(key), null);
  });

  it('has a bounded cache, from which unknown keys do not evict a valid one', async () => {
    const { keys, store, create } = setup();
    const { key } = await create();
    await keys.authenticate(key);
    for (let i = 0; i < 10_050; i++) await keys.authenticate(makeKey().key);
    store.lookUps = 0;
    assert.ok(await keys.authenticate(key));
    assert.equal(store.lookUps, 0);
  });
});

describe('verifying a key while the database is unavailable', () => {
  it('accepts one that was valid within the last minute, and throws for all others', async () => {
    const { keys, store, pass, create } = setup();
    const [used, unused] = [await create(), await create()];
    assert.ok(await keys.authenticate(used.key));
    store.state = 'away';
    pass(59_000);
    assert.equal((await keys.authenticate(used.key))?.id, used.apiKey.id);
    await assert.rejects(keys.authenticate(unused.key), away);
    await assert.rejects(keys.authenticate(makeKey().key), away);
    assert.equal(await keys.authenticate('no key at all'), null);
    pass(1000);
    await assert.rejects(keys.authenticate(used.key), away);
    store.state = 'up';
    assert.ok(await keys.authenticate(used.key));
  });

  it('respects expiry and earlier revocations', async () => {
    const { keys, store, pass, create } = setup();
    const [expiring, revoked] = [await create(NOON + 5000), await create()];
    for (const { key } of [expiring, revoked]) assert.ok(await keys.authenticate(key));
    await keys.revoke(revoked.apiKey.id);
    store.state = 'away';
    pass(5000);
    assert.equal(await keys.authenticate(expiring.key), null);
    await assert.rejects(keys.authenticate(revoked.key), away);
  });

  it('waits half a second for a frozen database, and then not again for a second', async () => {
    const { keys, store, pass, create } = setup();
    const { key } = await create();
    await keys.authenticate(key);
    store.state = 'frozen';
    pass(1000);
    const began = performance.now();
    assert.ok(await keys.authenticate(key));
    const waited = performance.now() - began;
    assert.ok(waited > 400 && waited < 5000, `${waited}`);
    const { lookUps } = store;
    // Known before anything that takes time.
    for (let i = 0; i < 100; i++)
      assert.ok(await Promise.race([keys.authenticate(key), immediate(undefined)]));
    assert.equal(store.lookUps, lookUps);
  });
});

describe('recording the use of a key', () => {
  it('happens once a minute, in the background', async () => {
    const { keys, store, pass, create } = setup();
    const { key, apiKey } = await create();
    for (let second = 0; second < 120; second++) {
      assert.ok(await keys.authenticate(key));
      pass(1000);
    }
    await keys.close();
    assert.deepEqual(store.touches, [
      [apiKey.id, NOON],
      [apiKey.id, NOON + MINUTE],
    ]);
  });

  it('keeps a later time of another process, and its failure fails no request', async () => {
    const { keys, store, create } = setup();
    const [other, ours] = [await create(), await create()];
    await store.touch(other.apiKey.id, NOON - 1000);
    store.touches.length = 0;
    store.touch = () => Promise.reject(new AppError('database_unavailable'));
    assert.ok(await keys.authenticate(other.key));
    assert.ok(await keys.authenticate(ours.key));
    await keys.close();
    assert.deepEqual(store.touches, []);
  });
});
