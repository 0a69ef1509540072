import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { KnexApiKeys } from '../../src/db/access/api-keys.ts';
import type { Database } from '../../src/db/database.ts';
import { SCOPES, type StoredApiKey } from '../../src/domain/access/api-keys.ts';
import { makeKey } from '../../src/services/access/api-key-format.ts';
import { ApiKeyService } from '../../src/services/access/api-keys.ts';
import { eachDatabase } from '../support/databases.ts';
import { silentLog } from '../support/fakes.ts';
import { HOUR, NOON, newId } from './fixtures.ts';

function storedKey(over: Partial<StoredApiKey> = {}): StoredApiKey {
  const { prefix, hash } = makeKey();
  return {
    id: newId(),
    prefix,
    hash,
    owner: 'team blue',
    scopes: ['chat', 'read'],
    limits: { requestsPerMinute: null, openStreams: null },
    createdAt: NOON,
    expiresAt: null,
    lastUsedAt: null,
    revokedAt: null,
    ...over,
  };
}

const successor = () => {
  const { prefix, hash } = makeKey();
  return { id: newId(), prefix, hash };
};

const withoutHash = ({ hash: _hash, ...key }: StoredApiKey) => key;

eachDatabase((name, open) => {
  let database: Database | undefined;
  // SQLite is for one process: connections that wait for each other in it stand still until one gives up.
  const store = () => {
    database = name === 'SQLite' ? (database ?? open()) : open();
    return new KnexApiKeys(database.knex);
  };

  describe('API keys as rows', () => {
    test('there is none that can be used before one is made, nor when all are expired or revoked', async () => {
      const keys = store();
      assert.equal(await keys.anyUsable(NOON), false);
      await keys.add(storedKey({ expiresAt: NOON }));
      const revoked = storedKey();
      await keys.add(revoked);
      assert.equal(await keys.anyUsable(NOON), true);
      await keys.revoke(revoked.id, NOON);
      assert.equal(await keys.anyUsable(NOON), false);
      await keys.add(storedKey({ expiresAt: NOON + 1 }));
      assert.equal(await keys.anyUsable(NOON), true);
      assert.equal(await keys.anyUsable(NOON + 1), false);
    });

    test('come back as they went in, whatever the owner is called', async () => {
      const keys = store();
      const owners = fc
        .string({ unit: 'grapheme', minLength: 1, maxLength: 60 })
        .filter((text) => text.isWellFormed() && !text.includes('\0'));
      const time = fc.option(fc.integer({ min: 0, max: Date.UTC(9999, 0) }));
      await fc.assert(
        fc.asyncProperty(
          owners,
          fc.subarray([...SCOPES], { minLength: 1 }),
          time,
          async (owner, scopes, at) => {
            const limits = { requestsPerMinute: at && 1_000_000_000, openStreams: at && 0 };
            const key = storedKey({ owner, scopes, limits, expiresAt: at, lastUsedAt: at });
            await keys.add(key);
            assert.deepEqual(await keys.findByHash(key.hash), key);
          },
        ),
        { numRuns: 30 },
      );
    });

    test('are found by nothing but the hash itself', async () => {
      const keys = store();
      const key = storedKey();
      await keys.add(key);
      for (const hash of [key.hash.toUpperCase(), `${key.hash}0`, '', "' OR '1'='1", '%', key.id, '\0']) {
        assert.equal(await keys.findByHash(hash), null, hash);
      }
    });

    test('are listed newest first', async () => {
      const keys = store();
      const [older, newer] = [
        storedKey({ createdAt: NOON + HOUR }),
        storedKey({ createdAt: NOON + 2 * HOUR }),
      ];
      await keys.add(older);
      await keys.add(newer);
      assert.deepEqual((await keys.list()).slice(0, 2), [newer, older].map(withoutHash));
    });

    test('are revoked once: the first time stands', async () => {
      const keys = store();
      const key = storedKey();
      await keys.add(key);
      const revoked = { ...withoutHash(key), revokedAt: NOON + 5 };
      assert.deepEqual(await keys.revoke(key.id, NOON + 5), revoked);
      assert.deepEqual(await keys.revoke(key.id, NOON + 9), revoked);
      assert.equal(await keys.revoke(newId(), NOON), null);
      assert.equal(await keys.revoke("' OR '1'='1", NOON), null);
    });

    test('are replaced by one for the same owner, scopes, limits and expiry, and only while they are good', async () => {
      const keys = store();
      const limits = { requestsPerMinute: 600, openStreams: 0 };
      const key = storedKey({ limits, expiresAt: NOON + HOUR, lastUsedAt: NOON });
      await keys.add(key);
      const next = successor();
      const made = await keys.replace(key.id, next, NOON + 7);
      const { hash, ...shown } = next;
      assert.deepEqual(made, { ...withoutHash(key), ...shown, createdAt: NOON + 7, lastUsedAt: null });
      assert.deepEqual(await keys.findByHash(hash), { ...made, hash });
      assert.equal((await keys.findByHash(key.hash))?.revokedAt, NOON + 7);
      assert.equal(await keys.replace(key.id, successor(), NOON + 8), null);
      assert.equal(await keys.replace(next.id, successor(), NOON + HOUR), null);
      assert.equal((await keys.findByHash(hash))?.revokedAt, null);
      assert.equal(await keys.replace(newId(), successor(), NOON), null);
    });

    test('have one successor when several replace them at the same time', async () => {
      const stores = [store(), store(), store()];
      await Promise.all(stores.map((keys) => keys.list()));
      for (let round = 0; round < 10; round++) {
        const key = storedKey({ owner: `owner of round ${round}` });
        await stores[0]?.add(key);
        const made = await Promise.all(stores.map((keys) => keys.replace(key.id, successor(), NOON)));
        assert.equal(made.filter((one) => one !== null).length, 1);
        const good = (await store().list()).filter(
          ({ owner, revokedAt }) => owner === key.owner && !revokedAt,
        );
        assert.equal(good.length, 1);
      }
    });

    test('remember their last use, which never moves back', async () => {
      const keys = store();
      const key = storedKey();
      await keys.add(key);
      await keys.touch(key.id, NOON + 5);
      await keys.touch(key.id, NOON + 3);
      assert.equal((await keys.findByHash(key.hash))?.lastUsedAt, NOON + 5);
    });

    test('are nowhere in the database themselves', async () => {
      const database = open();
      const service = new ApiKeyService({
        store: new KnexApiKeys(database.knex),
        clock: { now: () => NOON },
        ids: { next: newId },
        log: silentLog,
      });
      const { key, apiKey } = await service.create({ owner: 'team red', scopes: ['admin'], expiresAt: null });
      assert.equal((await service.authenticate(key))?.id, apiKey.id);
      await service.close();
      const rows = JSON.stringify(await database.knex('api_keys').select());
      assert.ok(rows.includes(apiKey.prefix));
      assert.equal(rows.includes(key.slice(12)), false);
      const [row] = await database.knex('api_keys').where({ id: apiKey.id });
      assert.equal(row?.last_used_at, '2024-03-21 12:00:00.123');
    });
  });
});
