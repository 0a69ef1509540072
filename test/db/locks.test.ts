import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { setTimeout as delay, setImmediate as immediate } from 'node:timers/promises';
import Sqlite from 'better-sqlite3';
import mysql from 'mysql2/promise';
import type { DatabaseOptions } from '../../src/db/core/client.ts';
import { dialectOf } from '../../src/db/core/dialect.ts';
import { type Durability, openDurability } from '../../src/db/durability.ts';
import { LockedTurns } from '../../src/db/turns/locked-turns.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { TurnWrite } from '../../src/domain/chat/turns.ts';
import { eachDatabase, silent } from '../support/databases.ts';
import { startFaultProxy } from '../support/fault-proxy.ts';
import { contents, newId, replyTo, startOf, userMessage, writeTurn } from './fixtures.ts';

const BUSY = { code: 'database_busy' };

eachDatabase((_name, open, options) => {
  const folder = mkdtempSync(join(tmpdir(), 'chat-locks-'));
  after(() => rmSync(folder, { recursive: true, force: true }));

  async function durable(
    t: TestContext,
    over: Partial<DatabaseOptions> = {},
  ): Promise<Durability & { database: ReturnType<typeof open> }> {
    const database = open(over);
    const durability = await openDurability(
      database,
      { folder: join(folder, newId()), worker: newId(), leaseMs: 60_000, journalMaxBytes: 1e8 },
      silent,
    );
    await durability.start();
    t.after(() => durability.close());
    return { ...durability, database };
  }

  const newTurn = () => ({ start: startOf(userMessage(newId()), { named: false }) });

  test('the new text of many replies is written in several transactions, none too long', async (t) => {
    const { writer, database } = await durable(t);
    const worker = newId();
    const replies = Array.from({ length: 10 }, () => {
      const question = userMessage(newId());
      return { question, reply: replyTo(question, { content: '', status: 'streaming', finishReason: null }) };
    });
    await Promise.all(
      replies.map(({ question, reply }) => writer.write({ start: startOf(question), reply, worker })),
    );
    const text = 'x'.repeat(300_000);
    const save = () =>
      Promise.allSettled(
        replies.map(({ reply }) =>
          writer.progress({
            uid: reply.uid,
            worker,
            reasoningAfter: () => '',
            after: (length) => text.slice(length),
          }),
        ),
      );
    const saved = async () => (await save()).filter(({ status }) => status === 'fulfilled').length;
    assert.equal(await saved(), 4);
    assert.equal(await saved(), 8);
    assert.equal(await saved(), 10);
    for (const { question } of replies) {
      assert.equal((await contents(database.conversations, question.conversationId))[1], text);
    }
  });

  if (options.target.kind === 'mysql') {
    const { url } = options.target;

    /** A session that holds locks until the returned function is called. */
    async function locking(t: TestContext, ...statements: string[]): Promise<() => Promise<void>> {
      const session = await mysql.createConnection({ uri: url });
      let held = true;
      const release = async () => {
        if (held) await session.end();
        held = false;
      };
      t.after(release);
      for (const sql of statements) await session.query(sql);
      return release;
    }

    const lockRow = (id: string) => `SELECT id FROM conversations WHERE id = '${id}' FOR UPDATE`;

    /** Writes turns in new conversations one after the other; some may be slow because the machine is busy. */
    async function assertOthersAreQuick(writer: Durability['writer'], count: number): Promise<void> {
      const times: number[] = [];
      for (let i = 0; i < count; i++) {
        const began = performance.now();
        assert.equal(await writer.write(newTurn()), 'saved');
        times.push(performance.now() - began);
        await delay(5);
      }
      const slow = times.filter((ms) => ms > 400);
      assert.ok(slow.length <= count / 4, `${slow}`);
    }

    test('a locked conversation delays its own turn only', async (t) => {
      const { writer, database } = await durable(t);
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      const release = await locking(t, 'START TRANSACTION', lockRow(conversationId));
      const held = writer.write({ start: startOf(userMessage(conversationId, { content: 'first' })) });
      const behind = writer.write({ start: startOf(userMessage(conversationId, { content: 'second' })) });
      await assertOthersAreQuick(writer, 20);
      await release();
      assert.deepEqual(await Promise.all([held, behind]), ['saved', 'saved']);
      const texts = await contents(database.conversations, conversationId);
      assert.deepEqual(texts.slice(2), ['first', 'second']);
      assert.equal(writer.state().turns, 0);
    });

    test('a locked reply delays its own end only, and its checkpoint fails as busy', async (t) => {
      const { writer, database } = await durable(t);
      const question = userMessage(newId());
      const reply = replyTo(question, { content: '', status: 'streaming', finishReason: null });
      const worker = newId();
      await writer.write({ start: startOf(question), reply, worker });
      const release = await locking(
        t,
        'START TRANSACTION',
        `SELECT id FROM messages WHERE uid = '${reply.uid}' FOR UPDATE`,
      );
      await assert.rejects(
        writer.progress({ uid: reply.uid, worker, reasoningAfter: () => '', after: () => 'some' }),
        BUSY,
      );
      const end = writer.write({ reply: { ...reply, content: 'whole', status: 'complete' } });
      await assertOthersAreQuick(writer, 20);
      await release();
      assert.equal(await end, 'saved');
      assert.deepEqual(await contents(database.conversations, question.conversationId), [
        'a question',
        'whole',
      ]);
    });

    test('a lock that stays makes a turn busy after a bounded time, and nothing is journaled', async (t) => {
      const { writer } = await durable(t);
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      await locking(t, 'START TRANSACTION', lockRow(conversationId));
      const began = performance.now();
      const start = () => writer.write({ start: startOf(userMessage(conversationId)) });
      // The time of the first ones counts for the last.
      await Promise.all([start(), start(), start()].map((started) => assert.rejects(started, BUSY)));
      const took = performance.now() - began;
      assert.ok(took > 4000 && took < 20_000, `${took} ms`);
      assert.equal(writer.state().turns, 0);
      assert.equal(await writer.write(newTurn()), 'saved');
    });

    test('a server that answers every statement late is slow: turns are stored, and none is journaled', async (t) => {
      const proxy = await startFaultProxy(Number(new URL(url).port));
      t.after(() => proxy.delay(0));
      proxy.delay(250);
      const slow = new URL(url);
      slow.port = String(proxy.port);
      // Longer than a round trip, and shorter than opening a connection.
      const over = { target: { kind: 'mysql', url: slow.href }, acquireTimeoutMs: 1200 } as const;
      const { writer, database } = await durable(t, over);
      t.after(async () => {
        await database.close();
        await proxy.close();
      });
      const reads = Array.from({ length: 10 }, () => database.conversations.find(newId()));
      assert.deepEqual(
        await Promise.all([1, 2, 3].map(() => writer.write(newTurn()))),
        Array(3).fill('saved'),
      );
      assert.deepEqual(await Promise.all(reads), Array(10).fill(null));
      assert.equal(writer.state().turns, 0);
    });

    test('a server that stops while a connection is opened is away', async (t) => {
      const proxy = await startFaultProxy(Number(new URL(url).port));
      const slow = new URL(url);
      slow.port = String(proxy.port);
      const database = open({ target: { kind: 'mysql', url: slow.href }, acquireTimeoutMs: 1000 });
      t.after(async () => {
        await database.close();
        await proxy.close();
      });
      proxy.hold('SET NAMES');
      const began = performance.now();
      const reads = Array.from({ length: 30 }, () => database.conversations.find(newId()));
      const away = { code: 'database_unavailable' };
      await Promise.all(
        [database.writer.write(newTurn()), ...reads].map((each) => assert.rejects(each, away)),
      );
      assert.ok(performance.now() - began < 15_000);
      proxy.resume();
      assert.equal(await database.conversations.find(newId()), null);
    });

    // LOCK TABLES on a table with a foreign key locks its parent too, so that nothing could be written.
    for (const table of ['deletions', 'workers']) {
      test(`a locked table ${table} delays only the turns that need it`, async (t) => {
        const { writer, database } = await durable(t);
        const expired = await writeTurn(writer, userMessage(newId()));
        const { conversationId } = await writeTurn(writer, userMessage(newId()));
        const release = await locking(t, `LOCK TABLES ${table} WRITE`);
        const deleted = database.conversations.delete(conversationId, UNRESTRICTED);
        const question = userMessage(newId());
        const key = { id: newId().repeat(2).slice(0, 64), bodyHash: 'b', cached: false, replaces: null };
        const keyed = writer.write({
          start: startOf(question),
          reply: replyTo(question, { status: 'streaming', content: '' }),
          worker: newId(),
          key: { ...key, expiredBefore: 0 },
        });
        const expiredBefore = Date.now();
        const renewed = writer.write({
          start: startOf(userMessage(expired.conversationId), { expiredBefore }),
        });
        await delay(1100);
        await assertOthersAreQuick(writer, 20);
        await release();
        assert.deepEqual(await Promise.all([deleted, keyed, renewed]), [true, 'saved', 'saved']);
        assert.equal(writer.state().turns, 0);
      });
    }
    return;
  }

  const { file } = options.target;

  test('while another program holds the lock of the file the loop runs, and writes succeed in order', async (t) => {
    const { writer, database } = await durable(t);
    const { conversationId } = await writeTurn(writer, userMessage(newId()));
    const other = new Sqlite(file);
    t.after(() => other.close());
    other.exec('BEGIN IMMEDIATE');
    let tick = performance.now();
    let longest = 0;
    const ticks = setInterval(() => {
      longest = Math.max(longest, performance.now() - tick - 5);
      tick = performance.now();
    }, 5);
    t.after(() => clearInterval(ticks));
    const writes = ['one', 'two', 'three'].map((content) =>
      writer.write({ start: startOf(userMessage(conversationId, { content })) }),
    );
    const deleted = database.conversations.delete(newId(), UNRESTRICTED);
    const single = database.knex('conversations').where({ id: newId() }).delete();
    const began = performance.now();
    assert.equal((await contents(database.conversations, conversationId)).length, 2);
    const nothing = { writes: [], result: 'nothing to write' };
    assert.equal(await dialectOf(database.knex).batch(database.knex, [], () => nothing), nothing.result);
    // Those that wait do so for five seconds: the lock stays until they have read.
    assert.ok(performance.now() - began < 4000, 'readers do not wait');
    await delay(2500);
    other.exec('ROLLBACK');
    assert.deepEqual(await Promise.all(writes), ['saved', 'saved', 'saved']);
    assert.equal(await deleted, false);
    assert.equal(await single, 0);
    const texts = await contents(database.conversations, conversationId);
    assert.deepEqual(texts.slice(2), ['one', 'two', 'three']);
    assert.equal(writer.state().turns, 0);
    // A wait of SQLite itself would be one of 5 s, because this thread holds the lock.
    assert.ok(longest < 2500, `${longest} ms`);
  });
});

test('a turn that starts or revises waits five seconds for a lock, the end of a reply longer', async () => {
  const waiting = new LockedTurns(async () => false);
  const settle = (unit: TurnWrite) => {
    const { promise, resolve } = Promise.withResolvers<string>();
    const since = performance.now() - 6000;
    waiting.add({ unit, since, resolve, reject: () => resolve('refused') });
    return promise;
  };
  const reply = () => replyTo(userMessage(newId()));
  const end = settle({ reply: reply() });
  const revision = { by: UNRESTRICTED, expiredBefore: 0, message: undefined };
  const starts = [{ start: startOf(userMessage(newId())) }, { revision, reply: reply() }].map(settle);
  assert.deepEqual(await Promise.all(starts), ['refused', 'refused']);
  assert.equal(await Promise.race([end, immediate('waits')]), 'waits');
  waiting.close();
  assert.equal(await end, 'refused');
});
