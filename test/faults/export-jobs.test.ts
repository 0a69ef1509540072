/** Export jobs whose process, database or disk fails: the file is complete, or there is none. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { DatabaseOptions } from '../../src/db/core/client.ts';
import { openDatabase } from '../../src/db/database.ts';
import { startChat, until } from '../support/chat-server.ts';
import { type ChildFolder, type ChildServer, makeFolder } from '../support/child-server.ts';
import { optionsFor, serverUrls, silent } from '../support/databases.ts';
import { type StoredConversation, store, storedConversation } from '../support/export-data.ts';
import { download, jobOf, jobThatIs, startJob, taken } from '../support/export-jobs.ts';
import { findMariadbd } from '../support/mariadb.ts';
import { type OwnDatabase, startOwnDatabase } from '../support/own-database.ts';
import { randomised, rounds } from '../support/random.ts';
import { smallDisk } from '../support/small-disk.ts';

const HOUR = 3_600_000;
/** Several pages of each database, and more than one is read at the same time. */
const MESSAGES = 10_000;
/** So much text that a process that held all of it would need more than its heap has room for, and would end. */
const LARGE = Array(2500).fill('今天天气很好 "quoted" '.repeat(400));
const KILLS = rounds(2, 10);
/** A job notes every half second where it is to be resumed. */
const NOTED_MS = 700;
const ALL = '/api/conversations/export-all';
const KINDS = [
  { format: 'csv' },
  { format: 'json', compression: 'gzip' },
  { format: 'ndjson', compression: 'zstd' },
];
const QUICK = { LOG_FORMAT: 'json', STREAM_LEASE_MS: '1500', PURGE_CRON: '0 0 1 1 *', DB_AUTO_MIGRATE: 'on' };

/** Many conversations, and one that is many pages long. */
async function fill(target: DatabaseOptions['target']): Promise<void> {
  const at = Date.now() - HOUR;
  const text = (n: number) => `message ${n} 今天天气很好 "quoted" `.repeat(20);
  const short = Array.from({ length: MESSAGES / 50 }, (_, n) =>
    storedConversation(at + n, Array(40).fill(text(n))),
  );
  await add(target, [...short, storedConversation(at + 500, Array(MESSAGES / 5).fill('one of many '))]);
}

async function add(target: DatabaseOptions['target'], conversations: readonly StoredConversation[]) {
  const database = openDatabase(optionsFor(target), silent);
  await database.migrate();
  await store(database, conversations);
  await database.close();
}

/**
 * Checks that the file of a job is complete, matches its manifest and equals a direct export. No message is written
 * meanwhile, so there is one direct export of each format.
 */
function fileCheck() {
  const direct = new Map<string, string>();
  return async (url: string, id: string, format: string): Promise<void> => {
    const { text, manifest } = await taken(url, id);
    assert.equal(manifest.messages, MESSAGES);
    if (!direct.has(format)) {
      const { status, bytes } = await download(`${url}${ALL}?format=${format}`);
      assert.equal(status, 200);
      direct.set(format, bytes.toString());
    }
    assert(text === direct.get(format), 'the file differs from a direct export');
  };
}

/** Something of the job is done, or all. */
async function untilBegun(url: string, id: string): Promise<void> {
  await until('some progress', async () => (await jobOf(url, id)).progress.messages > 0);
}

/**
 * Lets exports wait for chats, as they do: with a chat every few milliseconds, which fails and stores nothing, a job
 * takes seconds and nearly no CPU. Until the returned function is called, or the server ends.
 */
function slow(url: string): () => void {
  const end = new AbortController();
  const body = JSON.stringify({ regenerate: crypto.randomUUID(), conversation_id: crypto.randomUUID() });
  const headers = { 'content-type': 'application/json' };
  const chat = async () => {
    while (!end.signal.aborted) {
      const response = await fetch(`${url}/api/chat`, { method: 'POST', headers, body, signal: end.signal });
      await response.text();
      await pause(30);
    }
  };
  void chat().catch(() => {});
  return () => end.abort();
}

async function kill(child: ChildServer): Promise<void> {
  child.process.kill('SIGKILL');
  await child.exited();
}

describe('an export job of a server that is killed', () => {
  const checkFile = fileCheck();
  let folder: ChildFolder;
  const target = () => ({ kind: 'sqlite', file: join(folder.path, 'data', 'chat.sqlite') }) as const;
  before(async () => {
    folder = await makeFolder();
    await mkdir(join(folder.path, 'data'));
    await fill(target());
  });
  after(() => folder.remove());
  const files = () => readdir(join(folder.path, 'data', 'exports'));
  /** What runs after the first test. */
  let running: ChildServer | undefined;

  it(
    `${KILLS} times at random ends with a complete file`,
    randomised(async (random, t) => {
      let child = folder.start(QUICK);
      let url = await child.listening();
      const format = 'ndjson';
      const started = [await startJob(url, { format }), await startJob(url, { format, compression: 'zstd' })];
      let gone = 0;
      for (let n = 0; n < KILLS; n += 1) {
        // Every other one when something is done, whatever the speed of the machine, and half of those when it is noted.
        if (n % 2 === 0) await pause(random.int(0, 400));
        else {
          slow(url);
          await untilBegun(url, started.at(-1)?.id ?? '');
          await pause(random.int(0, 2 * NOTED_MS));
        }
        const killed = await jobOf(url, started.at(-1)?.id ?? '');
        if (killed.progress.messages > 0 && killed.status === 'running') gone += 1;
        await kill(child);
        child = folder.start(QUICK);
        url = await child.listening();
        const { status, id } = await jobOf(url, started.at(-1)?.id ?? '');
        if (status === 'done')
          started.push(await startJob(url, { format, compression: random.pick(['none', 'zstd']) }));
        else assert.equal(id, started.at(-1)?.id);
      }
      for (const { id } of started) {
        await jobThatIs(url, id);
        await checkFile(url, id, format);
      }
      t.diagnostic(`${started.length} jobs, ${gone} kills that found something done`);
      assert(gone > 0, 'no kill came while something was done already');
      assert.deepEqual(
        (await files()).filter((name) => name.includes('.part')),
        [],
      );
      running = child;
    }),
  );

  it('and removed leaves no files', async () => {
    let child = running ?? folder.start(QUICK);
    let url = await child.listening();
    slow(url);
    const { id } = await startJob(url, { format: 'json' });
    await until('the file', async () => (await files()).some((name) => name === `${id}.part`));
    await kill(child);
    child = folder.start({ ...QUICK, EXPORT_MAX_JOBS: '1' });
    url = await child.listening();
    await fetch(`${url}/api/exports/${id}`, { method: 'DELETE' });
    await until('its file to go', async () => !(await files()).some((name) => name.startsWith(id)));
    await kill(child);
  });

  it('takes little memory, compressed or not, and other requests are served meanwhile', async (t) => {
    if (process.platform !== 'linux') return;
    await add(target(), [storedConversation(Date.now(), LARGE)]);
    const before = new Date(Date.now() - HOUR / 2).toISOString();
    /** How much more than idle a new process takes, MB. */
    const measured = async () => {
      // Left alone V8 collects late where there is much memory; a process that needed more than this would end.
      const child = folder.start({
        ...QUICK,
        NODE_OPTIONS: '--max-old-space-size=56 --max-semi-space-size=8',
      });
      const url = await child.listening();
      const memory = async (kind: 'VmRSS' | 'VmHWM') => {
        const status = await readFile(`/proc/${child.process.pid}/status`, 'utf8');
        return Number(new RegExp(`${kind}:\\s+(\\d+) kB`).exec(status)?.[1]) / 1024;
      };
      await jobThatIs(url, (await startJob(url, { format: 'csv', end_date: before })).id);
      const idle = await memory('VmRSS');
      const waits: number[] = [];
      for (const body of KINDS) {
        const { id } = await startJob(url, body);
        for (let status = ''; status !== 'done'; ) {
          const began = performance.now();
          ({ status } = await jobOf(url, id));
          waits.push(performance.now() - began);
          await pause(30);
        }
      }
      const most = await memory('VmHWM');
      await kill(child);
      const slow = waits.sort((a, b) => a - b).at(Math.floor(waits.length * 0.99)) ?? 0;
      t.diagnostic(
        `idle ${idle.toFixed()} MB, at most ${(most - idle).toFixed()} MB more; p99 of calls meanwhile ${slow.toFixed()} ms`,
      );
      return most - idle;
    };
    // The limit is 64 MB and the bench measures it; beside other tests the collector comes late, though not always.
    const rounds: number[] = [];
    while (!rounds.some((mb) => mb < 96)) {
      assert(rounds.length < 3, `${rounds} MB over idle`);
      rounds.push(await measured());
    }
  });
});

if (serverUrls().length > 0 && findMariadbd()) {
  describe('an export job of two processes on a database of their own', () => {
    const checkFile = fileCheck();
    let database: OwnDatabase;
    let folder: ChildFolder;
    const servers: ChildServer[] = [];
    before(async () => {
      database = await startOwnDatabase();
      folder = await makeFolder();
      await fill({ kind: 'mysql', url: database.place.url });
    });
    after(async () => {
      await folder.remove();
      await database.server.stop();
    });

    /** A server that runs already, or a new one. */
    const server = async (n: number) => {
      const known = servers[n];
      const child =
        known && known.process.signalCode === null ? known : folder.start({ ...QUICK, ...database.env() });
      servers[n] = child;
      return { child, url: await child.listening() };
    };

    /** A job that the first of two processes makes, at the moment when something of it is done. */
    const begin = async (format: string) => {
      const [a, b] = [await server(0), await server(1)];
      // Whoever does not run takes no job.
      b.child.process.kill('SIGSTOP');
      const release = slow(a.url);
      const { id } = await startJob(a.url, { format });
      await untilBegun(a.url, id);
      await pause(NOTED_MS);
      release();
      b.child.process.kill('SIGCONT');
      return { a, b, id };
    };

    it('is resumed by the other when one is killed', async () => {
      const { a, b, id } = await begin('ndjson');
      await kill(a.child);
      const began = performance.now();
      await jobThatIs(b.url, id);
      assert(performance.now() - began < 50_000);
      await checkFile(b.url, id, 'ndjson');
    });

    it('is completed by the other when one is frozen, and not damaged when that one resumes', async () => {
      const { a, b, id } = await begin('csv');
      a.child.process.kill('SIGSTOP');
      await jobThatIs(b.url, id);
      a.child.process.kill('SIGCONT');
      await until('a word of the one that slept', () =>
        a.child.lines.find(
          ({ export_id: of, msg }) => of === id && /^export (finished|failed|job lost)/.test(String(msg)),
        ),
      );
      await checkFile(b.url, id, 'csv');
      await kill(b.child);
    });

    it('waits for a database that dies, and is complete', async () => {
      const { child, url } = await server(0);
      const release = slow(url);
      const { id } = await startJob(url, { format: 'csv' });
      const job = () => jobOf(url, id).catch(() => undefined);
      for (let n = 0; n < 3; n += 1) {
        const made = await until('progress', async () => {
          const now = await job();
          return now && now.progress.messages > 0 ? now : undefined;
        });
        if (made.status === 'done') break;
        await database.server.kill();
        await pause(300);
        await database.server.start();
      }
      release();
      await until('the end', async () => (await job())?.status === 'done');
      await checkFile(url, id, 'csv');
      await kill(child);
    });
  });
}

const disk = smallDisk(4 * 1024);
if (disk) {
  describe('an export job on a disk that is full', () => {
    after(() => disk.remove());
    // Twice as long in the file as in the database.
    const texts = (n: number) => Array(n).fill('"'.repeat(10_000));

    for (const shared of [true, false]) {
      it(`fails with an instruction and leaves no files, the database ${shared ? 'beside it' : 'elsewhere'}`, async (t) => {
        const elsewhere = await mkdtemp(join(tmpdir(), 'chat-elsewhere-'));
        const sqlite = shared ? disk.folder : elsewhere;
        const env = { DATA_DIR: disk.folder, DATABASE_URL: `sqlite:${join(sqlite, 'chat.sqlite')}` };
        const chat = await startChat({ ...env, DB_AUTO_MIGRATE: 'on' });
        t.after(async () => {
          await chat.stop();
          for (const name of await readdir(disk.folder))
            await rm(join(disk.folder, name), { recursive: true });
          await rm(elsewhere, { recursive: true, force: true });
        });
        const at = Date.now() - 2 * HOUR;
        await store(chat.server.database, [
          storedConversation(at, texts(10)),
          storedConversation(at + HOUR, texts(shared ? 160 : 250)),
        ]);
        for (const compression of ['none', 'gzip']) {
          const { id } = await startJob(chat.url, { format: 'csv', compression });
          const { error, file } = await jobThatIs(chat.url, id, 'failed');
          assert.match(String(error), /^The disk is full: free some space/);
          assert.equal(file, null);
          const left = async () => (await readdir(join(disk.folder, 'exports'))).length;
          await until('its file to go', async () => (await left()) === 0);
        }
        const small = await startJob(chat.url, { format: 'csv', end_date: new Date(at).toISOString() });
        await jobThatIs(chat.url, small.id);
        assert.equal((await taken(chat.url, small.id)).manifest.messages, 10);
        await chat.ask({ message: 'still there?' });
      });
    }
  });
}
