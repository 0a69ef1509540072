import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { dialectOf } from '../../src/db/core/dialect.ts';
import type { ExportJob, JobScope } from '../../src/domain/exports/jobs.ts';
import { AT, manifest, queuedJob, request } from '../notify/jobs.ts';
import { eachDatabase } from '../support/databases.ts';
import { newId } from './fixtures.ts';

const EVERYTHING = { owner: null, from: null, to: null, role: null, status: null };

eachDatabase((_name, open, options) => {
  /** An empty table. */
  async function setUp() {
    const database = open();
    await database.knex('export_jobs').delete();
    return { ...database, store: database.exportJobs };
  }

  /** A job that ended just now; `email` asked to be told. */
  async function ended(store: Awaited<ReturnType<typeof setUp>>['store'], over: Partial<ExportJob> = {}) {
    const job = queuedJob({ request: request({ email: 'ann@example.com' }), ...over });
    const worker = newId();
    await store.add(job);
    assert.equal((await store.claim(worker, AT, []))?.id, job.id);
    assert.equal(await store.finish(job.id, worker, manifest, AT), true);
    return job;
  }

  describe('export jobs', () => {
    test('are what was stored, bounds without an end included', async () => {
      const { store } = await setUp();
      const worker = newId();
      const job = queuedJob();
      await store.add(job);
      await store.add(job);
      assert.deepEqual(await store.find(job.id), job);
      const running = await store.claim(worker, AT + 5, []);
      assert.deepEqual(running, { ...job, status: 'running', startedAt: AT + 5 });
      const scope: JobScope = {
        scope: {
          filter: EVERYTHING,
          conversationId: null,
          activeSince: 0,
          lastCreated: Number.NEGATIVE_INFINITY,
          since: null,
        },
        exportedAt: AT,
        conversations: 1,
        messages: 2,
      };
      assert.equal(await store.saveScope(job.id, worker, scope), true);
      assert.deepEqual((await store.find(job.id))?.scope, scope);
    });

    test('are given to one worker each, the oldest first, and resume elsewhere when they are released', async () => {
      const { store } = await setUp();
      const jobs = [1, 2, 3].map((at) => queuedJob({ createdAt: AT + at }));
      for (const job of jobs) await store.add(job);
      const [one, two] = [newId(), newId()];
      const claimed = await Promise.all([one, two].map((worker) => store.claim(worker, AT, [])));
      assert.deepEqual(new Set(claimed.map((job) => job?.id)), new Set(jobs.slice(0, 2).map(({ id }) => id)));
      const [first] = claimed;
      assert.ok(first);
      await store.release(first.id, one);
      assert.equal((await store.claim(two, AT, [String(claimed[1]?.id)]))?.id, first.id);
      assert.equal(await store.fail(first.id, one, 'no', AT), false);
    });

    test('that a worker has without having heard of it are given to it again', async () => {
      const { store } = await setUp();
      const worker = newId();
      const job = queuedJob();
      await store.add(job);
      await store.claim(worker, AT, []);
      assert.equal(await store.claim(worker, AT, [job.id]), null);
      assert.equal((await store.claim(worker, AT, []))?.id, job.id);
    });
  });

  describe('that a job has ended', () => {
    test('is sent once to those who requested it', async () => {
      const { store } = await setUp();
      const job = await ended(store);
      await ended(store, { request: request() });
      const worker = newId();
      const claimed = await store.claimNotification(worker, AT, []);
      assert.equal(claimed?.job.id, job.id);
      assert.deepEqual([claimed.left, claimed.attempt, claimed.job.status], [['email'], 1, 'done']);
      assert.equal(await store.claimNotification(newId(), AT, []), null);
      assert.equal(await store.saveNotification(job.id, worker, [], null), true);
      assert.equal(await store.claimNotification(worker, AT + 1e9, []), null);
      assert.deepEqual(await store.find(job.id), claimed.job);
    });

    test('is sent by one of several workers that poll at the same time', async () => {
      const { store } = await setUp();
      const jobs = [];
      for (let count = 0; count < 5; count++) jobs.push(await ended(store));
      const others = options.target.kind === 'mysql' ? open().exportJobs : store;
      const looks = [store, others, store, others, store, others, store, others];
      const claimed = await Promise.all(looks.map((one) => one.claimNotification(newId(), AT, [])));
      const ids = claimed.flatMap((one) => one?.job.id ?? []);
      assert.equal(ids.length, 5);
      assert.deepEqual(new Set(ids), new Set(jobs.map(({ id }) => id)));
    });

    test('is tried again when its time has come, with what is left', async () => {
      const { store } = await setUp();
      const both = request({ email: 'ann@example.com', webhook: 'https://example.com/' });
      const job = await ended(store, { request: both });
      const [one, two] = [newId(), newId()];
      assert.deepEqual((await store.claimNotification(one, AT, []))?.left, ['email', 'webhook']);
      await store.saveNotification(job.id, one, ['webhook'], AT + 1000);
      assert.equal(await store.claimNotification(two, AT + 999, []), null);
      const again = await store.claimNotification(two, AT + 1000, []);
      assert.deepEqual([again?.left, again?.attempt], [['webhook'], 2]);
      assert.equal(await store.saveNotification(job.id, one, [], null), false);
    });

    test('is not told before, nor of a job that was cancelled', async () => {
      const { store, knex } = await setUp();
      const job = queuedJob({ request: request({ webhook: 'https://example.com/' }) });
      await store.add(job);
      assert.equal(await store.claimNotification(newId(), AT + 1e9, []), null);
      await store.cancel(job.id, AT);
      assert.equal(await store.claimNotification(newId(), AT + 1e9, []), null);
      assert.equal((await knex('export_jobs').where({ id: job.id }).first())?.notify_at, null);
    });

    test('is found by an index that holds only what is to be told', async () => {
      const { store, knex } = await setUp();
      for (let count = 0; count < 20; count++) await ended(store, { request: request() });
      const statements: { sql: string; bindings: string[] }[] = [];
      knex.on('query', (query) => statements.push(query));
      await store.claimNotification(newId(), AT, ['x']);
      knex.removeAllListeners('query');
      const [{ sql, bindings } = { sql: '', bindings: [] }] = statements;
      assert.equal(statements.length, 1, 'nothing but one look');
      const explain = dialectOf(knex).pooled ? 'EXPLAIN' : 'EXPLAIN QUERY PLAN';
      const plan = await dialectOf(knex).select<object>(knex, `${explain} ${sql}`, bindings);
      assert.match(JSON.stringify(plan), /export_jobs_notify_at/);
    });
  });
});
