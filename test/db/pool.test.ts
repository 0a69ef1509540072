import assert from 'node:assert/strict';
import { after, before, describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Knex } from 'knex';
import { createKnex, type DatabaseOptions } from '../../src/db/core/client.ts';
import { classifyError, databaseUnavailable, QueueFullError, toAppError } from '../../src/db/core/errors.ts';
import { openDatabase } from '../../src/db/database.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import { AppError } from '../../src/domain/errors.ts';
import { eachDatabase, optionsFor, serverUrls, silent } from '../support/databases.ts';
import { findMariadbd, type Mariadb, startMariadb } from '../support/mariadb.ts';
import { messagesOf, newId, replyTo, startOf, userMessage } from './fixtures.ts';

const POOL = 2;
const QUEUE = 100 * POOL;
const AWAY = { code: 'database_unavailable', retryAfter: 2 };

/** Takes every connection of the pool; what it returns gives them back. */
async function holdAll(knex: Knex): Promise<() => Promise<void>> {
  const held = await Promise.all(Array.from({ length: POOL }, () => knex.client.acquireConnection()));
  return async () => {
    for (const connection of held.splice(0)) await knex.client.releaseConnection(connection);
  };
}

const pending = (knex: Knex): number => knex.client.pool.numPendingAcquires();
const used = (knex: Knex): number => knex.client.pool.numUsed();

/** The pool counts a connection as used for some ticks after its statement has ended. */
async function idle(knex: Knex): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (used(knex) + pending(knex) > 0) {
    assert.ok(performance.now() < deadline, `${used(knex)} used, ${pending(knex)} waiting`);
    await delay(5);
  }
}

const codes = (results: readonly PromiseSettledResult<unknown>[]): unknown[] =>
  results.map((result) => (result.status === 'fulfilled' ? 'fine' : result.reason.code));

test('a full queue means that the database is busy, and no statement is repeated for it', () => {
  const error = new QueueFullError();
  assert.equal(classifyError(error), 'unavailable');
  const shown = toAppError(error);
  assert.ok(shown instanceof AppError);
  assert.deepEqual({ code: shown.code, retryAfter: shown.retryAfter }, AWAY);
  assert.equal(shown.message, databaseUnavailable(error).message);
});

eachDatabase((_name, open, options) => {
  if (options.target.kind === 'sqlite') {
    test('any number of requests may wait for the one connection to a file', async () => {
      const { conversations, writer } = open({ poolMax: 1 });
      const question = userMessage(newId());
      const [saved, ...found] = await Promise.all([
        writer.write({ start: startOf(question) }),
        ...Array.from({ length: 500 }, () => conversations.find(newId())),
      ]);
      assert.equal(saved, 'saved');
      assert.ok(found.every((conversation) => conversation === null));
    });

    test('a statement that is run again is not prepared again, unless it is long or many others ran', async () => {
      const { knex } = open();
      const connection = await knex.client.acquireConnection();
      const other = (n: number) => `SELECT ${n}`;
      const long = `SELECT '${'x'.repeat(3000)}'`;
      assert.equal(connection.prepare(other(0)), connection.prepare(other(0)));
      assert.notEqual(connection.prepare(long), connection.prepare(long));
      const first = connection.prepare(other(0));
      for (let n = 1; n < 100; n++) connection.prepare(other(n));
      assert.notEqual(connection.prepare(other(0)), first);
      await knex.client.releaseConnection(connection);
    });

    test('a statement that is run again returns the columns that the table has then', async () => {
      const [{ knex }, other] = [open(), open()];
      const all = () => knex.raw('SELECT * FROM kept');
      await knex.raw('CREATE TABLE kept (a, b)');
      await knex('kept').insert({ a: 1, b: 2 });
      assert.deepEqual(await all(), [{ a: 1, b: 2 }]);
      await other.knex.raw('ALTER TABLE kept DROP COLUMN a');
      assert.deepEqual(await all(), [{ b: 2 }]);
      await other.knex.raw('ALTER TABLE kept ADD COLUMN c DEFAULT 3');
      assert.deepEqual(await all(), [{ b: 2, c: 3 }]);
      await knex.raw('ALTER TABLE kept RENAME COLUMN c TO d');
      assert.deepEqual(await all(), [{ b: 2, d: 3 }]);
      await knex.raw('DROP TABLE kept');
      await assert.rejects(all(), /no such table: kept/);
      await knex.raw('CREATE TABLE kept (e)');
      assert.deepEqual(await all(), []);
      await knex.raw('DROP TABLE kept');
    });
    return;
  }

  describe('while every connection of the pool is busy', () => {
    async function setUp(t: TestContext, over: Partial<DatabaseOptions> = {}) {
      const database = open({ poolMax: POOL, ...over });
      const release = await holdAll(database.knex);
      t.after(release);
      return { ...database, release };
    }

    test('a hundred requests may wait for each, and the next one fails immediately', async (t) => {
      const { conversations, knex, release } = await setUp(t);
      const waiting = Array.from({ length: QUEUE }, () => conversations.find(newId()));
      const began = performance.now();
      const refused = await Promise.allSettled(
        Array.from({ length: 300 }, () => conversations.find(newId())),
      );
      // Less than the acquire timeout, 5 s.
      assert.ok(performance.now() - began < 4000);
      assert.deepEqual(new Set(codes(refused)), new Set([AWAY.code]));
      await assert.rejects(conversations.delete(newId(), UNRESTRICTED), AWAY);
      await assert.rejects(
        knex.transaction(async () => {}),
        QueueFullError,
      );
      assert.equal(pending(knex), QUEUE);
      await release();
      assert.deepEqual(new Set(await Promise.all(waiting)), new Set([null]));
      await idle(knex);
      assert.equal(await conversations.find(newId()), null);
    });

    test('the length of the queue can be set', async (t) => {
      const { conversations, knex, release } = await setUp(t, { queueMax: 3 });
      const results = Array.from({ length: 10 }, () => conversations.find(newId()));
      const settled = Promise.allSettled(results);
      await Promise.any(results.map((result) => result.catch(() => 'refused')));
      assert.equal(pending(knex), 3);
      await release();
      assert.equal(codes(await settled).filter((code) => code === 'fine').length, 3);
      await idle(knex);
    });

    test('replies are still saved', async (t) => {
      const { conversations, writer, knex, release } = await setUp(t);
      const waiting = Array.from({ length: QUEUE }, () => conversations.find(newId()));
      const question = userMessage(newId());
      assert.equal(await writer.write({ start: startOf(question) }), 'saved');
      assert.equal(await writer.write({ reply: replyTo(question) }), 'saved');
      const many = await Promise.all(
        Array.from({ length: 200 }, () => writer.write({ start: startOf(userMessage(newId())) })),
      );
      assert.deepEqual(new Set(many), new Set(['saved']));
      assert.equal(pending(knex), QUEUE);
      await release();
      await Promise.all(waiting);
      assert.equal((await messagesOf(conversations, question.conversationId, 0, 10)).length, 2);
      await idle(knex);
    });

    test('requests that wait too long fail, and leave the queue', async (t) => {
      const { conversations, knex, release } = await setUp(t, { acquireTimeoutMs: 200 });
      const late = await Promise.allSettled(Array.from({ length: QUEUE }, () => conversations.find(newId())));
      assert.deepEqual(new Set(codes(late)), new Set([AWAY.code]));
      assert.equal(pending(knex), 0);
      await release();
      assert.equal(await conversations.find(newId()), null);
      await idle(knex);
    });
  });
});

describe('a private database server that freezes', { timeout: 90_000 }, () => {
  if (serverUrls().length === 0 || !findMariadbd()) return;
  let server: Mariadb;
  before(async () => {
    server = await startMariadb();
    const admin = createKnex(optionsFor({ kind: 'mysql', url: `${server.url}/mysql` }));
    await admin.raw('CREATE DATABASE chat');
    await admin.destroy();
  });
  after(() => server.stop());

  test('fills the queue and no more, fails every request at its timeout, and serves all when it resumes', async (t) => {
    const database = openDatabase(
      {
        ...optionsFor({ kind: 'mysql', url: `${server.url}/chat` }),
        poolMax: POOL,
        queryTimeoutMs: 5000,
        acquireTimeoutMs: 5000,
      },
      silent,
    );
    t.after(async () => {
      server.thaw();
      await database.close();
    });
    await database.migrate();
    const { conversations, writer, knex } = database;
    const question = userMessage(newId());
    assert.equal(await writer.write({ start: startOf(question) }), 'saved');
    await Promise.all(Array.from({ length: POOL }, () => conversations.find(newId())));
    server.freeze();
    const began = performance.now();
    let atOnce = 0;
    const reads = Array.from({ length: 500 }, () =>
      conversations.find(newId()).catch((error: AppError) => {
        if (error.cause instanceof QueueFullError) atOnce += 1;
        return error.code;
      }),
    );
    await new Promise(setImmediate);
    assert.ok(pending(knex) <= QUEUE);
    assert.ok(atOnce >= 500 - QUEUE - POOL, `${atOnce}`);
    assert.deepEqual(new Set(await Promise.all(reads)), new Set([AWAY.code]));
    // One after the other they take minutes.
    assert.ok(performance.now() - began < 30_000);
    server.thaw();
    assert.ok(await conversations.find(question.conversationId));
    assert.equal(await writer.write({ reply: replyTo(question) }), 'saved');
    const found = await Promise.all(Array.from({ length: QUEUE }, () => conversations.find(newId())));
    assert.deepEqual(new Set(found), new Set([null]));
    await idle(knex);
  });
});
