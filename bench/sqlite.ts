/**
 * `npm run bench:sqlite`: large databases on SQLite. Searches 100,000 messages of one owner, for a word that all have
 * and for one that none has, while /health is asked, and times a backup and a restore of 1,000,000 messages.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createKnex } from '../src/db/core/client.ts';
import { readArguments } from '../src/util/command-line.ts';
import { startPeer, startSubject } from './processes.ts';

const USAGE = 'usage: npm run bench:sqlite';
readArguments(USAGE, {});

const SEARCHED = 100_000;
const RESTORED = 1_000_000;
const PER_CONVERSATION = 10;
const SENTENCE = 'The connection pool is shared by all readers, so a long export must not hold one of them. ';

/** Conversations of ten messages of 90 to 360 characters, active now. */
async function fill(file: string, messages: number): Promise<void> {
  const options = { poolMin: 1, poolMax: 1, acquireTimeoutMs: 5000, queryTimeoutMs: 0 };
  const knex = createKnex({ target: { kind: 'sqlite', file }, ...options });
  try {
    await knex.migrate.latest();
    const time = new Date().toISOString().replace('T', ' ').slice(0, 23);
    const numbers = 'WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)';
    await knex.raw(
      `${numbers} INSERT INTO conversations (id, created_at, last_active, last_seq)
       SELECT printf('00000000-0000-7000-8000-%012x', i), ?, ?, ? FROM n`,
      [messages / PER_CONVERSATION, time, time, PER_CONVERSATION],
    );
    await knex.raw(
      `${numbers} INSERT INTO messages (uid, conversation_id, role, content, timestamp, status, updated_at, length, seq)
       SELECT printf('00000000-0000-7001-8000-%012x', i), printf('00000000-0000-7000-8000-%012x', i / ?),
         CASE i % 2 WHEN 0 THEN 'user' ELSE 'assistant' END, text, ?, 'complete', ?, length(text), i % ? + 1
       FROM (SELECT i, replace(hex(zeroblob(i % 4 + 1)), '00', ?) AS text FROM n)`,
      [messages, PER_CONVERSATION, time, time, PER_CONVERSATION, SENTENCE],
    );
  } finally {
    await knex.destroy();
  }
}

/** Milliseconds until the whole response is there. */
async function timeOf(url: string): Promise<number> {
  const began = performance.now();
  const response = await fetch(url);
  if (response.status !== 200) throw new Error(`${response.status} from ${url}`);
  await response.arrayBuffer();
  return performance.now() - began;
}

/** The slowest of the requests that are made one after the other while `work` runs, ms. */
async function slowestWhile(work: Promise<unknown>, url: string): Promise<number> {
  let isDone = false;
  const ended = work.finally(() => {
    isDone = true;
  });
  let slowest = 0;
  while (!isDone) slowest = Math.max(slowest, await timeOf(url));
  await ended;
  return slowest;
}

async function search(folder: string): Promise<void> {
  const file = join(folder, 'search.sqlite');
  await fill(file, SEARCHED);
  const upstream = await startPeer('./upstream.ts');
  const server = await startSubject(upstream.port, `sqlite:${file}`);
  try {
    const base = `http://127.0.0.1:${server.port}`;
    await timeOf(`${base}/api/conversations?q=warm`);
    for (const word of ['readers', 'zebra']) {
      let ms = 0;
      const searching = timeOf(`${base}/api/conversations?q=${word}`).then((taken) => {
        ms = taken;
      });
      const health = await slowestWhile(searching, `${base}/health`);
      console.log(`search for "${word}": ${ms.toFixed(0)} ms, slowest /health ${health.toFixed(1)} ms`);
    }
  } finally {
    await server.stop();
    await upstream.stop();
  }
}

/** Seconds that a command takes. */
async function secondsOf(script: string, args: string[], dataDir: string): Promise<number> {
  const env = { ...process.env, DATA_DIR: dataDir, DATABASE_URL: '' };
  const began = performance.now();
  await promisify(execFile)(process.execPath, [join(import.meta.dirname, '../scripts', script), ...args], {
    env,
  });
  return (performance.now() - began) / 1000;
}

async function restore(folder: string): Promise<void> {
  const [from, copy, to] = ['from', 'copy', 'to'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await fill(join(from, 'chat.sqlite'), RESTORED);
  const backup = await secondsOf('backup.ts', [copy], from);
  const seconds = await secondsOf('restore.ts', [copy, '--yes'], to);
  console.log(`${RESTORED} messages: backup ${backup.toFixed(1)} s, restore ${seconds.toFixed(1)} s`);
}

const folder = await mkdtemp(join(tmpdir(), 'chat-api-bench-'));
try {
  await search(folder);
  await restore(folder);
} finally {
  await rm(folder, { recursive: true, force: true });
}
