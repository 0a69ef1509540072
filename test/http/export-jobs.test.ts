import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import type { ExportSource } from '../../src/domain/exports/exports.ts';
import { exportJobList } from '../../src/http/schemas/export-jobs.ts';
import { type ChatServer, databases, problemOf, shaped, startChat, until } from '../support/chat-server.ts';
import { store, storedConversation } from '../support/export-data.ts';
import {
  allEvents,
  download,
  eventsOf,
  type JobEvent,
  jobOf,
  jobThatIs,
  made,
  manifestOf,
  ndjsonLines,
  open,
  startJob,
  taken,
} from '../support/export-jobs.ts';
import { startPair } from '../support/pair.ts';

const HOUR = 3_600_000;
const ALL = '/api/conversations/export-all';

const samples = () => [
  storedConversation(Date.now() - 3 * HOUR, ['=1+1', '"quoted",\r\n你好 😀', "'", 'x'.repeat(40_000)]),
  storedConversation(Date.now() - 2 * HOUR, ['a question', 'an answer'], { status: 'incomplete' }),
  storedConversation(Date.now() - 2 * HOUR, ['only a question']),
  storedConversation(Date.now() - HOUR, []),
];

/** Blocks the reading of exports until it is opened, and reports waiting readers. */
function gateOf(t: TestContext, ...servers: readonly ChatServer[]) {
  const opened = Promise.withResolvers<void>();
  const waiting: ChatServer[] = [];
  for (const chat of servers) {
    const source: ExportSource = chat.server.database.exports;
    const read = source.read.bind(source);
    t.mock.method(source, 'read', async function* (...arguments_: Parameters<typeof read>) {
      waiting.push(chat);
      await opened.promise;
      yield* read(...arguments_);
    });
  }
  t.after(() => opened.resolve());
  return { open: opened.resolve, waiting };
}

const withoutTime = (text: string) => text.replace(/"exported_at":"[^"]*"/, '');

for (const place of databases()) {
  describe(`export jobs, on ${place.name},`, () => {
    let chat: ChatServer;
    let folder: string;
    const data = samples();
    before(async () => {
      folder = await mkdtemp(join(tmpdir(), 'chat-exports-'));
      // One test sets the clock ahead: a purge would take the data away.
      const env = {
        ...(await place.create()),
        DATA_DIR: folder,
        EXPORT_MAX_JOBS: '1',
        CONVERSATION_TTL_HOURS: '0',
      };
      chat = await startChat(env);
      await store(chat.server.database, data);
    });
    after(async () => {
      await chat.stop();
      await place.drop();
      await rm(folder, { recursive: true, force: true });
    });
    const filesOf = async (id: string) =>
      (await readdir(join(folder, 'exports'))).filter((name) => name.startsWith(id));

    it('make the bytes of a direct export, in every format and compression', async () => {
      for (const form of ['json', 'csv', 'ndjson', 'csv&csv=raw']) {
        const direct = (await download(`${chat.url}${ALL}?format=${form}`)).bytes.toString();
        const [format = '', raw] = form.split('&');
        for (const compression of ['none', 'gzip', 'zstd']) {
          const body = { format, compression, ...(raw ? { csv: 'raw' } : {}) };
          const { job, manifest, file, text } = await made(chat.url, body);
          assert(withoutTime(text) === withoutTime(direct), `${form} ${compression} differs`);
          assert.deepEqual(
            [manifest.conversations, manifest.messages, manifest.csv, manifest.compression],
            [4, 7, format === 'csv' ? (raw ? 'raw' : 'escaped') : null, compression],
          );
          assert.deepEqual([job.progress.messages, job.progress.bytes], [7, manifest.bytes]);
          const packed = { none: '', gzip: '.gz', zstd: '.zst' }[compression];
          const name = `export-${job.id}.${format}${packed}`;
          assert.equal(file.headers['content-disposition'], `attachment; filename="${name}"`);
          const types = {
            json: 'application/json',
            csv: 'text/csv; charset=utf-8',
            ndjson: 'application/x-ndjson',
          };
          const type = Object.entries(types).find(([known]) => known === format)?.[1];
          assert.equal(file.headers['content-type'], packed ? `application/${compression}` : type);
          assert.equal(file.headers['content-encoding'], undefined);
        }
      }
    });

    it('choose as a direct export does', async () => {
      const [first] = data;
      const day = new Date(Date.now() - 2.5 * HOUR).toISOString();
      for (const filter of [
        { role: 'user' },
        { status: 'incomplete' },
        { role: 'user', status: 'incomplete' },
        { start_date: day },
        { end_date: day },
        { start_date: '2000-01-01', end_date: '2000-01-02' },
        { start_date: '0000-01-01', end_date: '9999-12-31' },
      ]) {
        const query = new URLSearchParams({ format: 'ndjson', ...filter });
        const direct = (await chat.call('GET', `${ALL}?${query}`)).text;
        const { job, manifest, text } = await made(chat.url, { format: 'ndjson', ...filter });
        assert.equal(text, direct, String(query));
        const { role, status } = { role: null, status: null, ...filter };
        assert.deepEqual([job.role, job.message_status], [role, status]);
        const { start_date, end_date } = job;
        assert.deepEqual(manifest.filter, { start_date, end_date, role, status });
      }
      const { manifest } = await made(chat.url, { end_date: day, format: 'csv' });
      assert.equal(manifest.first_message_id, first?.messages[0]?.uid);
      assert.equal(manifest.last_message_id, first?.messages.at(-1)?.uid);
    });

    it('keep their manifest beside the file, equal to that of the API', async () => {
      const { job, manifest } = await made(chat.url, { format: 'csv' });
      const path = join(folder, 'exports', `${job.id}.manifest.json`);
      assert.deepEqual(JSON.parse(await readFile(path, 'utf8')), manifest);
      assert.deepEqual(await filesOf(job.id), [`${job.id}.csv`, `${job.id}.manifest.json`]);
      assert(Date.parse(manifest.started_at) <= Date.parse(manifest.finished_at));
    });

    it('are listed, the newest first, page by page', async () => {
      const started = [];
      for (let n = 0; n < 5; n += 1) started.unshift((await startJob(chat.url)).id);
      await jobThatIs(chat.url, started[0] ?? '');
      const ids: string[] = [];
      let cursor: string | null = '';
      while (cursor !== null) {
        const query: string = cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`;
        const answer = await chat.call('GET', `/api/exports?limit=2${query}`);
        const page = shaped(exportJobList, answer);
        assert.equal(page.has_more, page.next_cursor !== null);
        for (const job of page.exports) assert.deepEqual(job, await jobOf(chat.url, job.id));
        ids.push(...page.exports.map(({ id }) => id));
        cursor = page.next_cursor;
      }
      assert.deepEqual(ids.slice(0, 5), started);
      assert.equal(new Set(ids).size, ids.length);
      const whole = shaped(exportJobList, await chat.call('GET', '/api/exports'));
      assert.deepEqual(
        whole.exports.map(({ id }) => id),
        ids,
      );
    });

    it('are made EXPORT_MAX_JOBS at a time, the oldest first', async (t) => {
      const gate = gateOf(t, chat);
      const [first, second] = [await startJob(chat.url), await startJob(chat.url)];
      await until('the first job', () => gate.waiting.length === 1);
      assert.equal((await jobOf(chat.url, first.id)).status, 'running');
      const waits = await jobOf(chat.url, second.id);
      assert.deepEqual(
        [waits.status, waits.progress.percent, waits.file, waits.finished_at],
        ['queued', null, null, null],
      );
      gate.open();
      const [one, two] = [await jobThatIs(chat.url, first.id), await jobThatIs(chat.url, second.id)];
      assert(String(one.finished_at) <= String(two.finished_at));
    });

    it('stream their progress as events: while they run, at the end, and to late readers', async (t) => {
      const gate = gateOf(t, chat);
      const { id } = await startJob(chat.url);
      await until('the job', () => gate.waiting.length === 1);
      const response = await open(`${chat.url}/api/exports/${id}/events`);
      assert.equal(response.headers['content-type'], 'text/event-stream; charset=utf-8');
      const events: JobEvent[] = [];
      for await (const event of eventsOf(response)) {
        if (events.length === 0) {
          assert.deepEqual([event.event, event.data.status], ['progress', 'running']);
          gate.open();
        }
        events.push(event);
      }
      const end = events.at(-1);
      assert.deepEqual(events.map(({ event }) => event === 'done').indexOf(true), events.length - 1);
      assert.deepEqual([end?.id, end?.data], [`${id}:end`, await jobOf(chat.url, id)]);
      const late = await allEvents(await open(`${chat.url}/api/exports/${id}/events`));
      assert.deepEqual(late, [end]);
      const again = { 'last-event-id': `${id}:end` };
      assert.equal((await download(`${chat.url}/api/exports/${id}/events`, again)).status, 204);
      const head = await download(`${chat.url}/api/exports/${id}/events`, {}, 'HEAD');
      assert.deepEqual([head.status, head.bytes.length], [200, 0]);
    });

    it('continue without readers of their events, and send an error to readers of a removed job', async (t) => {
      const gate = gateOf(t, chat);
      const { id } = await startJob(chat.url);
      const queued = await startJob(chat.url);
      const [gone, follower] = await Promise.all(
        [id, queued.id].map((one) => open(`${chat.url}/api/exports/${one}/events`)),
      );
      gone?.destroy();
      for (let n = 0; n < 2; n += 1) await chat.call('DELETE', `/api/exports/${queued.id}`);
      assert(follower);
      const events = await allEvents(follower);
      const end = events.at(-1);
      // It may have been seen cancelled first.
      assert.match(String(end?.data.code ?? end?.data.status), /^(export_not_found|cancelled)$/);
      gate.open();
      await jobThatIs(chat.url, id);
    });

    it('are cancelled immediately while queued or running, without leaving files', async (t) => {
      const gate = gateOf(t, chat);
      const [running, queued] = [await startJob(chat.url), await startJob(chat.url)];
      await until('the job', () => gate.waiting.length === 1);
      const began = performance.now();
      for (const { id } of [queued, running]) {
        const { status, text } = await chat.call('DELETE', `/api/exports/${id}`);
        assert.deepEqual([status, JSON.parse(text)], [200, { id, deleted: true, status: 'cancelled' }]);
        const job = await jobOf(chat.url, id);
        assert.deepEqual([job.status, job.file, typeof job.finished_at], ['cancelled', null, 'string']);
        for (const what of ['file', 'manifest']) {
          problemOf(await chat.call('GET', `/api/exports/${id}/${what}`), 409, 'export_not_ready');
        }
      }
      gate.open();
      await until('its file to go', async () => (await filesOf(running.id)).length === 0);
      // Files without a job are looked for every ten minutes.
      assert(performance.now() - began < 10_000, `${performance.now() - began} ms`);
      const next = await made(chat.url, { format: 'csv' });
      assert.equal((await jobOf(chat.url, queued.id)).status, 'cancelled');
      assert.deepEqual(await filesOf(queued.id), []);
      for (const { id } of [running, queued, next.job]) {
        const { text } = await chat.call('DELETE', `/api/exports/${id}`);
        assert.deepEqual(JSON.parse(text), { id, deleted: true, status: 'removed' });
        assert.deepEqual(await filesOf(id), []);
        for (const path of ['', '/file', '/manifest', '/events']) {
          problemOf(await chat.call('GET', `/api/exports/${id}${path}`), 404, 'export_not_found');
        }
        problemOf(await chat.call('DELETE', `/api/exports/${id}`), 404, 'export_not_found');
      }
    });

    it('refuse what is not valid, and keep nothing of it', async () => {
      const before = (await chat.call('GET', '/api/exports?limit=1')).text;
      const { cursor } = (await made(chat.url, {})).manifest;
      const forged = `${cursor.slice(0, -2)}${cursor.endsWith('AA') ? 'BB' : 'AA'}`;
      const other = Buffer.from('1.2').toString('base64url') + cursor.slice(cursor.indexOf('.'));
      for (const [body, path] of [
        [{ format: 'xml' }, 'format'],
        [{ format: 5 }, 'format'],
        [{ format: null }, 'format'],
        [{ start_date: '2026-02-30' }, 'start_date'],
        [{ start_date: 20260101 }, 'start_date'],
        [{ end_date: '2026-01-01T00:00:00' }, 'end_date'],
        [{ end_date: 'tomorrow' }, 'end_date'],
        [{ start_date: '2026-01-02', end_date: '2026-01-01' }, 'end_date'],
        [{ end_date: '9999-12-31T23:59:59-01:00' }, 'end_date'],
        [{ start_date: '0000-01-01T00:00:00+01:00' }, 'start_date'],
        [{ role: 'developer' }, 'role'],
        [{ status: ['complete'] }, 'status'],
        [{ csv: true, format: 'csv' }, 'csv'],
        [{ compression: 'br' }, 'compression'],
        [{ format: 'csv', since: cursor }, 'since'],
        [{ since: forged }, 'since'],
        [{ since: other }, 'since'],
        [{ since: '' }, 'since'],
        [{ since: 'x'.repeat(300) }, 'since'],
        [{ since: { seq: 1, at: 2 } }, 'since'],
        [{ notify: 'me@example.com' }, 'notify'],
        [{ notify: { email: 'nobody' } }, 'notify.email'],
        [{ notify: { email: 'a@example.com\r\nBcc: b@example.com' } }, 'notify.email'],
        [{ notify: { webhook: 'example' } }, 'notify.webhook'],
        [{ notify: { webhook: 'file:///etc/passwd' } }, 'notify.webhook'],
        [{ start_dat: '2026-01-01' }, 'start_dat'],
        [{ Format: 'csv' }, 'Format'],
        [{ notify: { mail: 'a@example.com' } }, 'notify.mail'],
        [JSON.parse('{"__proto__":{"role":"user"}}'), '__proto__'],
        [[], ''],
        [null, ''],
        ['csv', ''],
      ] as const) {
        const answer = await chat.call('POST', '/api/exports', body);
        const { errors } = problemOf(answer, 400, 'validation');
        assert.deepEqual(
          errors?.map((error) => error.path),
          [path],
          JSON.stringify(body),
        );
      }
      const text = { 'content-type': 'text/plain' };
      problemOf(await chat.call('POST', '/api/exports', {}, text), 415, 'unsupported_media_type');
      const none = crypto.randomUUID();
      for (const path of ['', '/file', '/manifest', '/events']) {
        problemOf(await chat.call('GET', `/api/exports/none${path}`), 400, 'validation');
        problemOf(await chat.call('GET', `/api/exports/${none}${path}`), 404, 'export_not_found');
        const wrong = await chat.call('POST', `/api/exports/${none}${path}`, {});
        problemOf(wrong, 405, 'method_not_allowed');
        assert.match(wrong.headers.allow ?? '', /^(DELETE, |)GET, HEAD, (DELETE, |)OPTIONS$/);
      }
      for (const query of ['limit=0', 'limit=1001', 'limit=x', 'cursor=x', 'cursor=', 'limit=1&limit=2']) {
        problemOf(await chat.call('GET', `/api/exports?${query}`), 400, 'validation');
      }
      const [, newest] = ndjsonLines(
        shaped(exportJobList, await chat.call('GET', '/api/exports?limit=2'))
          .exports.map((job) => `${JSON.stringify(job)}\n`)
          .join(''),
      );
      assert.deepEqual(newest, JSON.parse(before).exports[0], 'one of them became a job');
    });

    it('continue from a cursor for thirty days', async (t) => {
      const { cursor } = (await made(chat.url, { format: 'ndjson' })).manifest;
      const { job, manifest, text } = await made(chat.url, { format: 'ndjson', since: cursor });
      assert.equal(job.incremental, true);
      assert.match(String(manifest.filter.since), /^20.*Z$/);
      const later = Date.now() + 30 * 24 * HOUR;
      const { mock } = t.mock.method(Date, 'now', () => later - 60_000);
      assert.equal((await chat.call('POST', '/api/exports', { since: cursor })).status, 202);
      mock.mockImplementation(() => later + 60_000);
      const { detail } = problemOf(
        await chat.call('POST', '/api/exports', { since: cursor }),
        400,
        'validation',
      );
      assert.match(detail, /at most 30 days old; start a full export instead/);
      assert.equal(ndjsonLines(text).length, manifest.conversations + manifest.deleted);
    });

    it('have changes and deletions in the next export by the cursor of the last', async () => {
      const { conversation_id: deleted } = await chat.ask({ message: 'to be deleted' });
      const { conversation_id: changed } = await chat.ask({ message: 'first' });
      const { cursor } = (await made(chat.url, {})).manifest;
      await chat.call('DELETE', `/api/conversations/${deleted}`);
      await chat.ask({ message: 'second', conversation_id: changed });
      const lines = ndjsonLines((await made(chat.url, { format: 'ndjson', since: cursor })).text);
      const byId = new Map(lines.map((line) => [line.conversation_id, line]));
      assert.equal(byId.get(deleted).deleted, true);
      assert.match(byId.get(deleted).deleted_at, /^\d{4}-.*\.\d{3}Z$/);
      const said = byId.get(changed).messages.map(({ content }: { content: string }) => content);
      assert.deepEqual(said.slice(-2), ['second', 'echo: second']);
      await chat.call('DELETE', `/api/conversations/${changed}`);
    });

    it('are followed by any number of readers with one query per poll', async (t) => {
      const { knex, exportJobs } = chat.server.database;
      const gate = gateOf(t, chat);
      const jobs = [await startJob(chat.url)];
      await until('the job', () => gate.waiting.length === 1);
      // One job runs at a time, so these stay queued.
      for (let n = 0; n < 4; n++) jobs.push(await startJob(chat.url));
      const { mock } = t.mock.method(exportJobs, 'findAll');
      const readers = await Promise.all(
        jobs.flatMap(({ id }) => [1, 2, 3].map(() => open(`${chat.url}/api/exports/${id}/events`))),
      );
      const following = Promise.all(readers.map(allEvents));
      const first = mock.callCount() + 1;
      await until('a poll for all of them', () => mock.callCount() > first);
      const statements: string[] = [];
      const listen = ({ sql }: { sql: string }) => {
        if (sql.startsWith('select * from `export_jobs` where `id` ')) statements.push(sql);
      };
      knex.on('query', listen);
      t.after(() => knex.removeListener('query', listen));
      const began = performance.now();
      const polls = mock.callCount();
      await until('two more polls', () => mock.callCount() >= polls + 2);
      const intervals = (performance.now() - began) / 500;
      assert(statements.length <= intervals + 1.5, `${statements.length} queries in ${intervals} intervals`);
      const queued = jobs.slice(1).map(({ id }) => id);
      for (const {
        arguments: [ids],
      } of mock.calls.slice(first))
        assert.deepEqual(ids?.toSorted(), queued.toSorted());
      gate.open();
      for (const events of await following) assert.equal(events.at(-1)?.event, 'done');
    });

    it('follow no reader when the server stops', async (t) => {
      const other = await startChat({ SHUTDOWN_GRACE_MS: '30000' });
      await other.ask({ message: 'something to export' });
      const gate = gateOf(t, other);
      const { id } = await startJob(other.url);
      const following = allEvents(await open(`${other.url}/api/exports/${id}/events`));
      await until('the job', () => gate.waiting.length === 1);
      const began = performance.now();
      gate.open();
      await other.stop();
      // Who follows one waits for the end of the grace period.
      assert(performance.now() - began < 15_000, `${performance.now() - began} ms`);
      await following;
    });
  });

  describe(`export jobs of two hosts, on ${place.name},`, () => {
    it('are cancelled by one while the other makes them, whose file is not here', async (t) => {
      const pair = await startPair(place, { EXPORT_MAX_JOBS: '3' });
      t.after(() => pair.stop());
      const { a, b } = pair;
      await store(a.server.database, samples());
      const { id } = await startJob(a.url, { format: 'ndjson' });
      await Promise.all([a, b].map(({ url }) => jobThatIs(url, id)));
      const answers = await Promise.all([a, b].map(({ url }) => download(`${url}/api/exports/${id}/file`)));
      assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 404]);
      const missing = answers.find(({ status }) => status === 404);
      assert.equal(JSON.parse(String(missing?.bytes)).code, 'export_not_found');
      for (const name of ['etag', 'repr-digest', 'content-disposition'] as const)
        assert.equal(missing?.headers[name], undefined);
      assert.deepEqual(await manifestOf(a.url, id), await manifestOf(b.url, id));

      const gate = gateOf(t, a, b);
      const second = await startJob(a.url);
      const maker = await until('the job', () => gate.waiting[0]);
      const other = maker === a ? b : a;
      const began = performance.now();
      assert.equal((await other.call('DELETE', `/api/exports/${second.id}`)).status, 200);
      assert.equal((await jobOf(maker.url, second.id)).status, 'cancelled');
      gate.open();
      await made(maker.url, { format: 'csv' });
      assert(performance.now() - began < 5000);
      const said = maker.server.lines.filter(({ msg }) => /^export (finished|failed)/.test(String(msg)));
      assert(!said.some(({ export_id }) => export_id === second.id), 'it went on');
    });
  });

  describe(`old export jobs, on ${place.name},`, () => {
    it('go after EXPORT_KEEP_HOURS with their files, and files go that belong to none', async (t) => {
      const folder = await mkdtemp(join(tmpdir(), 'chat-exports-'));
      const env = { ...(await place.create()), DATA_DIR: folder, EXPORT_KEEP_HOURS: '5' };
      t.after(async () => {
        await place.drop();
        await rm(folder, { recursive: true, force: true });
      });
      const at = Date.now();
      const first = await startChat(env, { clock: { now: () => at } });
      await store(first.server.database, samples());
      const { job } = await made(first.url, { format: 'csv' });
      await first.stop();
      const stray = join(folder, 'exports', `${crypto.randomUUID()}.part`);
      await writeFile(stray, 'half a file');

      const second = await startChat(env, { clock: { now: () => at + 4.9 * HOUR } });
      const names = () => readdir(join(folder, 'exports'));
      await until('the stray file to go', async () => (await names()).length === 2);
      assert.equal((await taken(second.url, job.id)).manifest.messages, 7);
      await second.stop();

      const third = await startChat(env, { clock: { now: () => at + 5.1 * HOUR } });
      await until('the old file to go', async () => (await names()).length === 0);
      const old = () => third.call('GET', `/api/exports/${job.id}`);
      await until('the job to go after it', async () => (await old()).status !== 200);
      problemOf(await old(), 404, 'export_not_found');
      await third.stop();
    });
  });
}
