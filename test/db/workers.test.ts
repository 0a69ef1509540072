import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Knex } from 'knex';
import { createKnex } from '../../src/db/core/client.ts';
import { dialectOf } from '../../src/db/core/dialect.ts';
import { KnexExportJobs } from '../../src/db/exports/jobs.ts';
import { ProcessLock } from '../../src/db/workers/process-lock.ts';
import { WorkerRegistry } from '../../src/db/workers/registry.ts';
import { AT, manifest, queuedJob, request } from '../notify/jobs.ts';
import { eachDatabase, silent } from '../support/databases.ts';
import { newId } from './fixtures.ts';

const LEASE = 300;
const INTERVAL = LEASE / 4;
const TIME = '2024-03-21 12:00:00.123';

/** Stores a conversation with one reply that `worker` writes, and returns the reply's uid. */
async function beginReply(knex: Knex, worker: string, over: object = {}): Promise<string> {
  const [conversation, uid] = [newId(), newId()];
  await knex('conversations').insert({ id: conversation, created_at: TIME, last_active: TIME });
  await knex('messages').insert({
    uid,
    conversation_id: conversation,
    role: 'assistant',
    content: 'so far',
    timestamp: TIME,
    status: 'streaming',
    updated_at: TIME,
    worker,
    ...over,
  });
  return uid;
}

async function replyOf(knex: Knex, uid: string) {
  const row = await knex('messages').where({ uid }).first();
  assert(row);
  return { status: row.status, finish: row.finish_reason, worker: row.worker, content: row.content };
}

const CLOSED = { status: 'incomplete', finish: 'error', worker: null, content: 'so far' };
const open = (worker: string) => ({ status: 'streaming', finish: null, worker, content: 'so far' });

const beatOf = async (knex: Knex, id: string): Promise<number | undefined> =>
  (await knex<{ id: string; beat: number }>('workers').where({ id }).first())?.beat;

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, 'it did not happen in time');
    await delay(5);
  }
}

/** A process that is in `folder` under `id` until it is killed. */
async function startChild(t: TestContext, folder: string, id: string): Promise<ChildProcess> {
  const source = `
    import { ProcessLock } from ${JSON.stringify(new URL('../../src/db/workers/process-lock.ts', import.meta.url).href)};
    const processLock = ProcessLock.acquire(${JSON.stringify(folder)}, ${JSON.stringify(id)}, { warn() {} });
    process.stdout.write(processLock ? 'in' : 'out');
    setInterval(() => processLock, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => child.kill('SIGKILL'));
  const [said] = await once(child.stdout, 'data');
  assert.equal(String(said), 'in');
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  await once(child, 'close');
}

function lockFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'chat-workers-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'workers');
}

eachDatabase((_name, _open, options) => {
  const single = options.target.kind === 'sqlite';

  async function setUp(t: TestContext) {
    const knex = createKnex(options);
    for (const table of ['workers', 'conversations', 'export_jobs']) await knex(table).delete();
    t.after(() => knex.destroy());
    let time = 1_000_000;
    return {
      knex,
      /** A process whose rounds are an interval apart by its own clock, however fast they come. */
      process(over: { id?: string; processLock?: ProcessLock | undefined } = {}) {
        // The driver of SQLite is synchronous: two connections of one process would wait for each other.
        const own = single ? knex : createKnex({ ...options, poolMax: 1 });
        if (!single) t.after(() => own.destroy());
        const id = over.id ?? newId();
        const registry = new WorkerRegistry(own, { leaseMs: LEASE, now: () => time, ...over, id }, silent);
        const round = async (rounds = 1): Promise<void> => {
          for (; rounds > 0; rounds--) {
            time += INTERVAL;
            await registry.round();
          }
        };
        return { id, knex: own, registry, round };
      },
      pass(ms: number) {
        time += ms;
      },
    };
  }

  describe('a dead process', () => {
    test('is reaped after three polls without a heartbeat, not before, and leaves no trace', async (t) => {
      const { knex, process } = await setUp(t);
      const [dead, watcher] = [process(), process()];
      await dead.round();
      const uid = await beginReply(knex, dead.id);
      const ended = await beginReply(knex, dead.id, { status: 'cancelled', finish_reason: 'cancelled' });
      await watcher.round(3);
      assert.deepEqual(await replyOf(knex, uid), open(dead.id));
      await watcher.round();
      assert.deepEqual(await replyOf(knex, uid), CLOSED);
      const { updated_at } = (await knex('messages').where({ uid }).first()) ?? {};
      assert.ok(updated_at !== undefined && updated_at > TIME);
      // What had ended before keeps how it ended.
      assert.deepEqual(await replyOf(knex, ended), {
        status: 'cancelled',
        finish: 'cancelled',
        worker: null,
        content: 'so far',
      });
      assert.equal(await beatOf(knex, dead.id), undefined);
    });

    test('is reaped also if it never sent a heartbeat', async (t) => {
      const { knex, process } = await setUp(t);
      const watcher = process();
      const nobody = newId();
      const uid = await beginReply(knex, nobody);
      await watcher.round(3);
      assert.deepEqual(await replyOf(knex, uid), open(nobody));
      await watcher.round();
      assert.deepEqual(await replyOf(knex, uid), CLOSED);
    });

    test('loses its export jobs and notifications; those of others stay', async (t) => {
      const { knex, process } = await setUp(t);
      const store = new KnexExportJobs(knex);
      const [dead, watcher] = [process(), process()];
      const nobody = newId();
      await watcher.round();
      const had = new Map<string, string>();
      for (const worker of [dead.id, watcher.id, nobody]) {
        const told = queuedJob({ request: request({ email: 'ann@example.com' }) });
        await store.add(told);
        await store.claim(worker, AT, []);
        await store.finish(told.id, worker, manifest, AT);
        await store.claimNotification(worker, AT, []);
        const made = queuedJob();
        await store.add(made);
        await store.claim(worker, AT, [told.id]);
        for (const { id } of [told, made]) had.set(id, worker);
      }
      const workers = async () =>
        new Map((await knex('export_jobs').select()).map((row) => [row.id, row.worker]));
      assert.deepEqual(await workers(), had);
      await watcher.round(3);
      assert.deepEqual(await workers(), had);
      await watcher.round();
      const kept = [...had].map(([id, worker]) => [id, worker === watcher.id ? worker : null] as const);
      assert.deepEqual(await workers(), new Map(kept));
      // Another worker can claim both.
      assert.notEqual(await store.claim(watcher.id, AT, [...had.keys()].slice(2, 4)), null);
      assert.equal((await store.claimNotification(newId(), AT, []))?.attempt, 2);
    });

    test('is reaped once by two pollers, and other rows do not change', async (t) => {
      const { knex, process } = await setUp(t);
      const [dead, one, two] = [process(), process(), process()];
      await dead.round();
      const uids = await Promise.all(Array.from({ length: 40 }, () => beginReply(knex, dead.id)));
      const mine = await beginReply(knex, one.id);
      const finished = await beginReply(knex, dead.id, { worker: null, status: 'complete' });
      for (let round = 0; round < 6; round++) await Promise.all([one.round(), two.round()]);
      for (const uid of uids) assert.deepEqual(await replyOf(knex, uid), CLOSED);
      assert.deepEqual(await replyOf(knex, mine), open(one.id));
      assert.equal((await replyOf(knex, finished)).status, 'complete');
    });

    test('is reaped later if its replies could not be closed at first', async (t) => {
      const { knex, process } = await setUp(t);
      const watcher = process();
      const uid = await beginReply(knex, newId());
      await watcher.round(3);
      // The look works, the transaction after it does not.
      const transaction = t.mock.method(watcher.knex, 'transaction', () => Promise.reject(new Error('lost')));
      await watcher.round();
      assert.equal((await replyOf(knex, uid)).status, 'streaming');
      transaction.mock.restore();
      await watcher.round();
      assert.deepEqual(await replyOf(knex, uid), CLOSED);
    });
  });

  describe('a live process', () => {
    test('is never reaped by another, nor the other by it', async (t) => {
      const { knex, process } = await setUp(t);
      const [one, two] = [process(), process()];
      const uids = [await beginReply(knex, one.id), await beginReply(knex, two.id)];
      for (let round = 0; round < 50; round++) await Promise.all([one.round(), two.round()]);
      for (const [index, { id }] of [one, two].entries()) {
        assert.deepEqual(await replyOf(knex, uids[index] ?? ''), open(id));
        assert.equal(await beatOf(knex, id), 50);
      }
    });

    test('is not reaped when its heartbeat comes between the last poll and the reaping', async (t) => {
      const { knex, process } = await setUp(t);
      const [slow, watcher] = [process(), process()];
      await slow.round();
      const uid = await beginReply(knex, slow.id);
      await watcher.round(3);
      const transaction = watcher.knex.transaction.bind(watcher.knex);
      t.mock.method(
        watcher.knex,
        'transaction',
        async (work: (trx: Knex.Transaction) => Promise<unknown>) => {
          await slow.registry.round();
          return transaction(work);
        },
      );
      await watcher.round();
      assert.deepEqual(await replyOf(knex, uid), open(slow.id));
      assert.equal(await beatOf(knex, slow.id), 2);
    });

    test('without a row is not reaped when it comes back between the last poll and the reaping', async (t) => {
      const { knex, process } = await setUp(t);
      const [late, watcher] = [process(), process()];
      const uid = await beginReply(knex, late.id);
      await watcher.round(3);
      const transaction = watcher.knex.transaction.bind(watcher.knex);
      t.mock.method(
        watcher.knex,
        'transaction',
        async (work: (trx: Knex.Transaction) => Promise<unknown>) => {
          await late.registry.round();
          return transaction(work);
        },
      );
      await watcher.round();
      assert.deepEqual(await replyOf(knex, uid), open(late.id));
      assert.equal(await beatOf(knex, late.id), 1);
    });

    test('is not reaped when the database was unavailable meanwhile', async (t) => {
      const { knex, process } = await setUp(t);
      const [slow, watcher] = [process(), process()];
      await slow.round();
      const uid = await beginReply(knex, slow.id);
      await watcher.round(3);
      const away = t.mock.method(watcher.knex.client, 'acquireConnection', () =>
        Promise.reject(new Error('Unable to acquire a connection')),
      );
      await watcher.round();
      away.mock.restore();
      await watcher.round(3);
      assert.deepEqual(await replyOf(knex, uid), open(slow.id));
      await watcher.round();
      assert.deepEqual(await replyOf(knex, uid), CLOSED);
    });

    test('counts as alive while the database is unavailable, if it was alive before', async (t) => {
      const { process } = await setUp(t);
      const [other, watcher] = [process(), process()];
      assert.equal(watcher.registry.alive, 1);
      await other.round();
      await watcher.round();
      assert.equal(watcher.registry.alive, 2);
      const away = t.mock.method(watcher.knex.client, 'acquireConnection', () =>
        Promise.reject(new Error('Unable to acquire a connection')),
      );
      await watcher.round(10);
      assert.equal(watcher.registry.alive, 2);
      away.mock.restore();
      await watcher.round(3);
      assert.equal(watcher.registry.alive, 2);
      await watcher.round();
      assert.equal(watcher.registry.alive, 1);
    });

    test('is not reaped by one that was frozen and resumes', async (t) => {
      const { knex, process, pass } = await setUp(t);
      const [other, frozen] = [process(), process()];
      await other.round();
      const uid = await beginReply(knex, other.id);
      await frozen.round(3);
      pass(3_600_000);
      await frozen.round(3);
      assert.deepEqual(await replyOf(knex, uid), open(other.id));
      await frozen.round();
      assert.deepEqual(await replyOf(knex, uid), CLOSED);
    });

    test('comes back after it was reaped', async (t) => {
      const { knex, process } = await setUp(t);
      const [frozen, watcher] = [process(), process()];
      await frozen.round();
      await watcher.round(4);
      assert.equal(await beatOf(knex, frozen.id), undefined);
      await frozen.round();
      const uid = await beginReply(knex, frozen.id);
      for (let round = 0; round < 6; round++) await Promise.all([frozen.round(), watcher.round()]);
      assert.equal(await beatOf(knex, frozen.id), 7);
      assert.deepEqual(await replyOf(knex, uid), open(frozen.id));
    });
  });

  describe('polling', () => {
    test('repeats until it is stopped, which removes the process', async (t) => {
      const { knex } = await setUp(t);
      const [id, dead] = [newId(), newId()];
      const registry = new WorkerRegistry(knex, { id, leaseMs: 60 }, silent);
      const uid = await beginReply(knex, dead);
      await registry.start();
      assert.equal(await beatOf(knex, id), 1);
      await until(async () => (await replyOf(knex, uid)).status === 'incomplete');
      assert.ok(((await beatOf(knex, id)) ?? 0) >= 4);
      await registry.stop();
      assert.equal(await beatOf(knex, id), undefined);
      await registry.start();
      assert.equal(await beatOf(knex, id), undefined, 'stopped is stopped');
    });

    test('starts and stops without a database, and succeeds as soon as it is available', async (t) => {
      const { knex, process } = await setUp(t);
      const away = t.mock.method(knex.client, 'acquireConnection', () =>
        Promise.reject(new Error('Unable to acquire a connection')),
      );
      const [early, id] = [new WorkerRegistry(knex, { id: newId(), leaseMs: 30 }, silent), newId()];
      await early.start();
      await early.stop();
      const registry = new WorkerRegistry(knex, { id, leaseMs: 30 }, silent);
      await registry.start();
      away.mock.restore();
      await until(async () => ((await beatOf(knex, id)) ?? 0) > 0);
      await registry.stop();
      assert.equal(await beatOf(process().knex, id), undefined);
    });

    test('finds its rows by the index, however many messages there are', async (t) => {
      const { knex, process } = await setUp(t);
      const conversation = newId();
      await knex('conversations').insert({ id: conversation, created_at: TIME, last_active: TIME });
      const messages = Array.from({ length: 3000 }, (_, index) => ({
        uid: newId(),
        conversation_id: conversation,
        role: index % 2 === 0 ? 'user' : 'assistant',
        content: 'long ago',
        timestamp: TIME,
        status: 'complete',
        updated_at: TIME,
      }));
      for (let at = 0; at < messages.length; at += 50)
        await knex('messages').insert(messages.slice(at, at + 50));
      const [one, two] = [newId(), newId()];
      for (const worker of [one, one, two, two, two]) await beginReply(knex, worker);
      const watcher = process();
      const statements: { sql: string; bindings: string[] }[] = [];
      watcher.knex.on('query', (query) => {
        // The histories are found by the ids of the replies.
        if (/messages/.test(query.sql) && !/history/.test(query.sql)) statements.push(query);
      });
      await watcher.round(4);
      watcher.knex.removeAllListeners('query');
      // Put back what the closing took, so that there is something to plan for.
      for (const worker of [one, one, two, two, two]) await beginReply(knex, worker);
      assert.equal(statements.length, 4 + 2 * 3, 'a look each, a list and two updates for each of the dead');
      for (const { sql, bindings } of statements) {
        const explain = single ? 'EXPLAIN QUERY PLAN' : 'EXPLAIN FORMAT=TRADITIONAL';
        const rows = await dialectOf(knex).select<object>(knex, `${explain} ${sql}`, bindings);
        const plan = JSON.stringify(rows);
        const good = single ? /INDEX messages_worker/ : /"key":"messages_worker"/;
        assert.match(plan, good, sql);
        assert.doesNotMatch(
          plan,
          single ? /SCAN messages"/ : /"table":"messages","type":"(ALL|index)"/,
          `${sql}\n${plan}`,
        );
      }
    });
  });

  describe('the processes of one host', () => {
    test('close the replies of a killed one immediately, and not those of a running one', async (t) => {
      const { knex, process } = await setUp(t);
      const folder = lockFolder(t);
      const [gone, alive] = [newId(), newId()];
      const child = await startChild(t, folder, gone);
      await startChild(t, folder, alive);
      const [lost, growing] = [await beginReply(knex, gone), await beginReply(knex, alive)];
      // It beat until a moment ago.
      await process({ id: gone }).round();
      await kill(child);
      const id = newId();
      const processLock = ProcessLock.acquire(folder, id, silent);
      assert(processLock);
      const { round, registry } = process({ id, processLock });
      await round();
      assert.deepEqual(await replyOf(knex, lost), CLOSED);
      assert.equal(await beatOf(knex, gone), undefined);
      assert.deepEqual(await replyOf(knex, growing), open(alive));
      assert.deepEqual(readdirSync(folder).sort(), [`${alive}.lock`, `${id}.lock`].sort());
      await registry.stop();
      assert.deepEqual(readdirSync(folder), [`${alive}.lock`]);
    });

    test('keep the lock file of a dead process until its replies are closed', async (t) => {
      const { knex, process } = await setUp(t);
      const folder = lockFolder(t);
      const gone = newId();
      const uid = await beginReply(knex, gone);
      await kill(await startChild(t, folder, gone));
      const id = newId();
      const processLock = ProcessLock.acquire(folder, id, silent);
      const { round, registry, knex: own } = process({ id, processLock });
      const away = t.mock.method(own, 'transaction', () => Promise.reject(new Error('lost')));
      await round();
      assert.ok(existsSync(join(folder, `${gone}.lock`)));
      away.mock.restore();
      await round();
      assert.deepEqual(await replyOf(knex, uid), CLOSED);
      assert.ok(!existsSync(join(folder, `${gone}.lock`)));
      await registry.stop();
    });
  });
});

describe('processLock', () => {
  test('lists no holder as dead, also within one process, nor one that released its lock', (t) => {
    const folder = lockFolder(t);
    const [one, two] = [newId(), newId()];
    const first = ProcessLock.acquire(folder, one, silent);
    const second = ProcessLock.acquire(folder, two, silent);
    assert(first && second);
    for (let round = 0; round < 3; round++) {
      assert.deepEqual([first.listDead(), second.listDead()], [[], []]);
    }
    second.release();
    assert.deepEqual(first.listDead(), []);
    assert.deepEqual(readdirSync(folder), [`${one}.lock`]);
    first.release();
    assert.deepEqual(readdirSync(folder), []);
  });

  test('ignores foreign files, and a file that is not locked yet', (t) => {
    const folder = lockFolder(t);
    const processLock = ProcessLock.acquire(folder, newId(), silent);
    assert(processLock);
    const names = ['notes.txt', 'a.lock', `${newId()}.lock.bak`, `${newId().toUpperCase()}.lock`];
    const empty = `${newId()}.lock`;
    for (const name of [...names, empty]) writeFileSync(join(folder, name), '');
    writeFileSync(join(folder, `${newId()}.lock`), 'this is no database, however long one looks at it');
    assert.deepEqual(processLock.listDead(), []);
    processLock.release();
    assert.equal(readdirSync(folder).length, names.length + 2);
  });

  test('works without a lock if the folder cannot be created, and logs it', (t) => {
    const folder = lockFolder(t);
    writeFileSync(folder, 'a file');
    const warnings: string[] = [];
    const logger = Object.assign(Object.create(silent), {
      warn: (_fields: object, message: string) => void warnings.push(message),
    });
    assert.equal(ProcessLock.acquire(folder, newId(), logger), undefined);
    assert.equal(warnings.length, 1);
  });
});
