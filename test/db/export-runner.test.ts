/** Jobs that make no progress: they end, and others get their slots. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { Retention } from '../../src/domain/conversations/retention.ts';
import { AppError } from '../../src/domain/errors.ts';
import type { ExportPage } from '../../src/domain/exports/exports.ts';
import type { ExportJob } from '../../src/domain/exports/jobs.ts';
import { createExportFiles } from '../../src/files/export-files.ts';
import { CursorCodec } from '../../src/services/exports/cursor-codec.ts';
import { ExportService } from '../../src/services/exports/exports.ts';
import { JobRunner, type RunnerSettings } from '../../src/services/exports/job-runner.ts';
import { queuedJob, request } from '../notify/jobs.ts';
import { until } from '../support/chat-server.ts';
import { eachDatabase, silent } from '../support/databases.ts';
import { newId } from './fixtures.ts';

const conversation = {
  id: newId(),
  createdAt: '2026-01-01T00:00:00.000Z',
  lastActive: '2026-01-01T00:00:00.000Z',
};
const PAGE: ExportPage = {
  parts: [{ conversation, messages: [], begins: true, ends: true }],
  position: conversation,
};
const busy = () => new AppError('database_busy' as 'database_unavailable', 'locked');
const unavailable = () => new AppError('database_unavailable');

eachDatabase((_name, open) => {
  describe('a job without progress', () => {
    /** A runner over a real store, whose rows come from `read`. */
    const setUp = async (
      t: TestContext,
      read: (job: string) => AsyncIterable<ExportPage>,
      settings: Partial<RunnerSettings> = {},
      notify = () => Promise.resolve(),
    ) => {
      const { exports: source, exportJobs: store } = open();
      const folder = await mkdtemp(join(tmpdir(), 'chat-runner-'));
      t.mock.method(source, 'count', async () => ({ conversations: 1, messages: 0 }));
      // The owner in the filter names the job.
      t.mock.method(source, 'read', ({ filter }: { filter: { owner: string } }) => read(filter.owner));
      const clock = { now: () => Date.now() };
      const exports = new ExportService(
        source,
        new CursorCodec(async () => ['secret']),
        clock,
        new Retention(0),
      );
      const files = createExportFiles(folder);
      const runner = new JobRunner(
        { store, files, exports, worker: newId(), clock, log: silent, notify },
        { maxJobs: 2, keepMs: 3_600_000, pollMs: 10, retryMs: 1, ...settings },
      );
      t.after(async () => {
        await runner.stop();
        await rm(folder, { recursive: true });
      });
      const start = async (owner: string): Promise<string> => {
        const filter = { ...request().filter, owner };
        const job = queuedJob({ request: { ...request(), filter }, owner });
        await store.add(job);
        runner.wake();
        return job.id;
      };
      const ended = (id: string): Promise<ExportJob> =>
        until('the end of the job', async () => {
          const job = await store.find(id);
          return job?.finishedAt === null ? undefined : (job ?? undefined);
        });
      return { store, folder, start, ended };
    };

    it('that meets locks or slow statements ends after five attempts and frees its slot', async (t) => {
      const attempts = new Map<string, number>();
      const { folder, start, ended } = await setUp(t, async function* (job) {
        attempts.set(job, (attempts.get(job) ?? 0) + 1);
        if (job !== 'quick') throw busy();
        yield PAGE;
      });
      const stuck = [await start('one'), await start('two')];
      const quick = await start('quick');
      assert.equal((await ended(quick)).status, 'done');
      for (const id of stuck) {
        const { status, error } = await ended(id);
        assert.equal(status, 'failed');
        assert.match(
          String(error),
          /^The database was too busy, .*: look for locks and slow statements, then /,
        );
      }
      assert.deepEqual([...attempts.values()], [5, 5, 1]);
      await until('their files to go', async () =>
        (await readdir(folder)).every((name) => name.startsWith(quick)),
      );
    });

    it('whose reads never return ends too, however many there are', async (t) => {
      const never = Promise.withResolvers<never>();
      const { start, ended } = await setUp(
        t,
        async function* (job) {
          if (job !== 'quick') await never.promise;
          yield PAGE;
        },
        { stalledMs: 1500 },
      );
      const stuck = [await start('one'), await start('two')];
      const quick = await start('quick');
      assert.equal((await ended(quick)).status, 'done');
      for (const id of stuck) {
        const { status, error } = await ended(id);
        assert.deepEqual([status, error?.includes('no progress')], ['failed', true]);
      }
    });

    it('does not wait for the notification of another one, which may take as long as a webhook', async (t) => {
      const webhook = Promise.withResolvers<void>();
      const { start, ended } = await setUp(
        t,
        async function* () {
          yield PAGE;
        },
        {},
        () => webhook.promise,
      );
      assert.equal((await ended(await start('one'))).status, 'done');
      assert.equal((await ended(await start('two'))).status, 'done');
      webhook.resolve();
    });

    it('waits for a database that serves nothing, however long', async (t) => {
      let isAway = true;
      const { store, start, ended } = await setUp(
        t,
        async function* () {
          if (isAway) throw unavailable();
          yield PAGE;
        },
        { stalledMs: 20 },
      );
      const fail = t.mock.method(store, 'fail', () => Promise.reject(unavailable()));
      const id = await start('one');
      await until('attempts to end the job', async () => fail.mock.callCount() >= 10);
      isAway = false;
      assert.equal((await ended(id)).status, 'done');
    });

    it('is not one that is slow: pages without matches are progress', async (t) => {
      const { start, ended } = await setUp(
        t,
        async function* () {
          for (let page = 0; page < 20; page += 1) {
            await new Promise((resolve) => setTimeout(resolve, 50));
            yield { parts: [], position: null };
          }
          yield PAGE;
        },
        { stalledMs: 900 },
      );
      assert.equal((await ended(await start('slow'))).status, 'done');
    });
  });
});
