import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ExportRequest, JobNotification } from '../../src/domain/exports/jobs.ts';
import { DeliveryError } from '../../src/notify/delivery-error.ts';
import { Notifier, notificationErrors } from '../../src/notify/notifier.ts';
import { newId } from '../db/fixtures.ts';
import { eachDatabase } from '../support/databases.ts';
import { silentLog } from '../support/fakes.ts';
import { AT, doneJob, manifest, queuedJob, request } from './jobs.ts';

const MINUTE = 60_000;
const never = new AbortController().signal;
const nothing = () => Promise.resolve();

type Delivery = (to: string) => Promise<void>;

eachDatabase((_name, open) => {
  async function setUp() {
    const { knex, exportJobs: store } = open();
    await knex('export_jobs').delete();
    const clock = { time: AT, now: () => clock.time };
    return {
      knex,
      store,
      clock,
      /** What a process does that looks once. */
      async look(deliver: Delivery, log = silentLog) {
        const mailer = { send: (_job: unknown, to: string) => deliver(to) };
        const webhook = (_job: unknown, to: string) => deliver(to);
        const notifier = new Notifier({ store, worker: newId(), mailer, webhook, clock, log });
        await notifier.notify(never);
        await notifier.stop();
      },
      async ended(notify: Partial<ExportRequest['notify']> = { email: 'ann@example.com' }) {
        const job = queuedJob({ request: request(notify) });
        const worker = newId();
        await store.add(job);
        await store.claim(worker, AT, []);
        await store.finish(job.id, worker, manifest, AT);
        return job;
      },
      /** When the next attempt is due; null: never. */
      async next() {
        const row = await knex('export_jobs').first();
        return row?.notify_at ? Date.parse(`${row.notify_at.replace(' ', 'T')}Z`) : null;
      },
    };
  }

  describe('a notification', () => {
    test('is sent once by every requested channel', async () => {
      const { look, ended, clock } = await setUp();
      await ended({ email: 'ann@example.com', webhook: 'https://example.com/hook' });
      const told: string[] = [];
      for (const _ of [1, 2, 3]) {
        await look(async (to) => void told.push(to));
        clock.time += 60 * MINUTE;
      }
      assert.deepEqual(told.sort(), ['ann@example.com', 'https://example.com/hook']);
    });

    test('is retried on the failed channel with growing pauses, and given up after eight attempts in about an hour', async () => {
      const { look, ended, clock, next } = await setUp();
      await ended({ email: 'ann@example.com', webhook: 'https://example.com/hook' });
      const tried: string[] = [];
      const pauses: number[] = [];
      const given: object[] = [];
      const log = { ...silentLog, error: (fields: object) => void given.push(fields) };
      for (let at = await next(); at !== null; at = await next()) {
        pauses.push(at - clock.time);
        clock.time = at - 1;
        await look(() => Promise.reject(new Error('too early')));
        clock.time = at;
        await look(async (to) => {
          tried.push(to);
          if (to !== 'ann@example.com') throw new DeliveryError('down');
        }, log);
      }
      assert.equal(tried.filter((to) => to === 'ann@example.com').length, 1);
      assert.equal(tried.filter((to) => to !== 'ann@example.com').length, 8);
      assert.deepEqual(pauses.slice(2, 4), [MINUTE, 2 * MINUTE]);
      assert.ok(clock.time - AT > 50 * MINUTE && clock.time - AT < 90 * MINUTE);
      assert.equal(given.length, 1);
    });

    test('is not retried after a permanent error', async () => {
      const { look, ended, next } = await setUp();
      await ended();
      await look(() => Promise.reject(new DeliveryError('no such mailbox', { permanent: true })));
      assert.equal(await next(), null);
    });

    test('is sent by another process when one dies while sending', async () => {
      const { look, ended, store, knex } = await setUp();
      await ended();
      const dead = newId();
      assert.ok(await store.claimNotification(dead, AT, []));
      const told: string[] = [];
      await look(async (to) => void told.push(to));
      assert.equal(told.length, 0, 'as long as it lives');
      await knex('export_jobs').where({ worker: dead }).update({ worker: null });
      await look(async (to) => void told.push(to));
      assert.deepEqual(told, ['ann@example.com']);
    });

    test('is sent once by several processes', async () => {
      const { look, ended } = await setUp();
      const emails = Array.from({ length: 8 }, (_, index) => `ann${index}@example.com`);
      for (const email of emails) await ended({ email });
      const told: string[] = [];
      await Promise.all(Array.from({ length: 4 }, () => look(async (to) => void told.push(to))));
      assert.deepEqual(told.sort(), emails);
    });
  });
});

describe('a notifier', () => {
  /** A store with this many due notifications. */
  function storeOf(count: number) {
    const saved: { id: string; left: readonly string[]; nextAt: number | null }[] = [];
    const jobs = Array.from({ length: count }, (): JobNotification => {
      return {
        job: doneJob({ request: request({ email: 'ann@example.com' }) }),
        left: ['email'],
        attempt: 1,
      };
    });
    return {
      saved,
      jobs,
      claimNotification: () => Promise.resolve(jobs.pop() ?? null),
      saveNotification(id: string, _worker: string, left: readonly string[], nextAt: number | null) {
        saved.push({ id, left, nextAt });
        return Promise.resolve(true);
      },
    };
  }
  const parts = { worker: 'w', webhook: nothing, clock: { now: () => AT }, log: silentLog };

  test('starts a bounded number of deliveries without waiting, and waits for them when it closes', async () => {
    const store = storeOf(10);
    const gate = Promise.withResolvers<void>();
    let begun = 0;
    const send = async () => {
      begun += 1;
      await gate.promise;
    };
    const notifier = new Notifier({ ...parts, store, mailer: { send } });
    await notifier.notify(never);
    await notifier.notify(never);
    assert.deepEqual([begun, store.jobs.length], [4, 6]);
    let closed = false;
    const closing = notifier.stop().then(() => {
      closed = true;
    });
    await new Promise(setImmediate);
    assert.equal(closed, false);
    gate.resolve();
    await closing;
    assert.equal(store.saved.length, 4);
    await notifier.notify(never);
    assert.deepEqual([begun, store.jobs.length], [4, 6]);
  });

  test('starts nothing after an abort', async () => {
    const store = storeOf(1);
    await new Notifier({ ...parts, store, mailer: { send: nothing } }).notify(AbortSignal.abort());
    assert.equal(store.jobs.length, 1);
  });

  test('sends nothing twice when the database was unavailable meanwhile', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const store = storeOf(1);
    const save = store.saveNotification;
    const failed = Promise.withResolvers<void>();
    store.saveNotification = () => {
      store.saveNotification = save;
      failed.resolve();
      return Promise.reject(new Error('away'));
    };
    let sent = 0;
    const send = () => {
      sent += 1;
      return nothing();
    };
    const notifier = new Notifier({ ...parts, store, mailer: { send } });
    await notifier.notify(never);
    await failed.promise;
    await new Promise(setImmediate);
    assert.equal(store.saved.length, 0);
    t.mock.timers.tick(2000);
    await new Promise(setImmediate);
    assert.deepEqual([sent, store.saved.map(({ nextAt }) => nextAt)], [1, [null]]);
    await notifier.stop();
  });

  test('closes without hanging while the database is unavailable', async () => {
    const store = storeOf(1);
    store.saveNotification = () => Promise.reject(new Error('away'));
    const notifier = new Notifier({ ...parts, store, mailer: { send: nothing } });
    await notifier.notify(never);
    await notifier.stop();
  });

  test('gives up mail without a mail server', async () => {
    const store = storeOf(1);
    const notifier = new Notifier({ ...parts, store, mailer: undefined });
    await notifier.notify(never);
    await notifier.stop();
    assert.deepEqual(
      store.saved.map(({ nextAt }) => nextAt),
      [null],
    );
  });
});

describe('a requested notification', () => {
  const possible = { hasMail: true, allowPrivate: false };

  test('is rejected with the path of the field where it is not available', () => {
    const faults = (notify: Partial<ExportRequest['notify']>, over = {}) =>
      notificationErrors({ email: null, webhook: null, ...notify }, { ...possible, ...over });
    const [mail, ...rest] = faults({ email: 'ann@example.com' }, { hasMail: false });
    assert.deepEqual([mail?.path, rest], ['notify.email', []]);
    assert.match(mail?.message ?? '', /SMTP_URL/);
    for (const webhook of ['http://127.0.0.1/', 'http://2130706433/', 'http://user:password@example.com/']) {
      assert.deepEqual(
        faults({ webhook }).map(({ path }) => path),
        ['notify.webhook'],
      );
    }
    assert.equal(faults({ email: 'ann@example.com', webhook: 'http://0/' }, { hasMail: false }).length, 2);
  });

  test('is accepted where it is available', () => {
    const both = { email: 'ann@example.com', webhook: 'https://example.com/hook' };
    assert.deepEqual(notificationErrors(both, possible), []);
    assert.deepEqual(notificationErrors({ email: null, webhook: null }, { ...possible, hasMail: false }), []);
    const local = { email: null, webhook: 'http://127.0.0.1:8080/' };
    assert.deepEqual(notificationErrors(local, { hasMail: false, allowPrivate: true }), []);
  });
});
