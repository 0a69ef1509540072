/**
 * `npm run bench:slow -- [NAME …]`: one row of the table in README.md per name, on MySQL or MariaDB. `lock` measures the
 * p99 of chats while another session locks the row of one conversation for 6 s, `deletion` while a conversation of
 * 250,000 messages is deleted, each against a quiet time of the same run; `purge` the time of `npm run purge` for 200
 * conversations of 2,500 messages with default settings. These three run without names. `export` measures an
 * incremental export of 5,000,000 messages of which none has changed, `million` the deletion of a conversation of
 * 1,000,000 messages, `many` the purge of 1,000,000 conversations of one message. `history` measures the read of a
 * context where 100 replies were regenerated, or one reply 100 times, against a plain one. `migrations` applies the migrations
 * of this checkout one by one to 1,000,000 messages while chats run in the checkout of an earlier version.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import mysql from 'mysql2/promise';
import { pino } from 'pino';
import { createKnex } from '../src/db/core/client.ts';
import { migrationSettings, pendingMigrations } from '../src/db/core/migrations.ts';
import { openDatabase } from '../src/db/database.ts';
import { UNRESTRICTED } from '../src/domain/access/access.ts';
import { createIdSource } from '../src/ids.ts';
import { readArguments } from '../src/util/command-line.ts';
import { median } from './compare.ts';
import { benchDatabases } from './databases.ts';
import { fill } from './export-data.ts';
import { percentile, run } from './load.ts';
import { type Measured, startPeer, startSubject } from './processes.ts';

const USAGE = 'usage: npm run bench:slow -- [ROW ...] [--earlier CHECKOUT]';
const { positionals, values } = readArguments(USAGE, {
  allowPositionals: true,
  options: { earlier: { type: 'string' } },
});
const PURGED = { conversations: 200, messages: 2500 };
const CONCURRENCY = 8;
const CHATS = 250;
const LOCK_MS = 6000;
const BATCH = 2000;
const EXPIRED = '2024-01-01 00:00:00.000';
/** Statements that take longer are kept in the server's table of slow statements. */
const SLOW_SECONDS = 0.1;

const ids = createIdSource();
const now = () => new Date().toISOString().replace('T', ' ').slice(0, 23);
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Inserts a conversation last active at `time` (the database's format); returns its id. */
async function addConversation(messages: number, time: string): Promise<string> {
  const id = ids.next();
  const row = [id, time, time, messages];
  await admin.query('INSERT INTO conversations (id, created_at, last_active, last_seq) VALUES (?)', [row]);
  for (let n = 0; n < messages; n += BATCH) {
    const rows = Array.from({ length: Math.min(BATCH, messages - n) }, (_, i) => {
      const role = i % 2 === 0 ? 'user' : 'assistant';
      return [ids.next(), id, role, `message ${n + i}, not long`, time, 'complete', time, n + i + 1];
    });
    await admin.query(
      'INSERT INTO messages (uid, conversation_id, role, content, timestamp, status, updated_at, seq) VALUES ?',
      [rows],
    );
  }
  return id;
}

/** 100 turns; of each the reply was regenerated once, or of the last turn so often. */
async function addRegenerated(times: number): Promise<string> {
  const id = ids.next();
  const time = now();
  const rows: (string | number | null)[][] = [];
  const add = (role: string, status: string, replyTo: string | null): string => {
    const uid = ids.next();
    rows.push([
      uid,
      id,
      role,
      'a text of some words '.repeat(20),
      time,
      status,
      time,
      rows.length + 1,
      replyTo,
    ]);
    return uid;
  };
  for (let turn = 1; turn <= 100; turn += 1) {
    const question = add('user', 'complete', null);
    const old = times === 1 || turn === 100 ? times : 0;
    for (let n = 0; n < old; n += 1) add('assistant', 'superseded', question);
    add('assistant', 'complete', question);
  }
  const columns = 'uid, conversation_id, role, content, timestamp, status, updated_at, seq, reply_to';
  const row = [id, time, time, rows.length];
  await admin.query('INSERT INTO conversations (id, created_at, last_active, last_seq) VALUES (?)', [row]);
  await admin.query(`INSERT INTO messages (${columns}) VALUES ?`, [rows]);
  return id;
}

/** Inserts expired conversations of one message. */
async function addMany(conversations: number): Promise<void> {
  const times = [EXPIRED, EXPIRED];
  for (let n = 0; n < conversations; n += BATCH) {
    const made = Array.from({ length: Math.min(BATCH, conversations - n) }, () => ids.next());
    await admin.query('INSERT INTO conversations (id, created_at, last_active, last_seq) VALUES ?', [
      made.map((id) => [id, ...times, 1]),
    ]);
    await admin.query(
      'INSERT INTO messages (uid, conversation_id, role, content, timestamp, status, updated_at, seq) VALUES ?',
      [made.map((id) => [ids.next(), id, 'user', 'not long', EXPIRED, 'complete', EXPIRED, 1])],
    );
  }
}

/** A percentile of stored chats in new conversations, ms; they go on until `work` is done. */
async function chatsWhile(server: Measured, work: Promise<unknown>, p = 99): Promise<number> {
  let isDone = false;
  const ended = work.finally(() => {
    isDone = true;
  });
  const firsts: number[] = [];
  do {
    const body = JSON.stringify({ message: `question ${firsts.length}`, cache: false });
    const timings = await run(CHATS, CONCURRENCY, 0, () => ({ port: server.port, path: '/api/chat', body }));
    firsts.push(...timings.map(({ first }) => first));
  } while (!isDone);
  await ended;
  return percentile(firsts, p);
}

/** Prints the p99 of chats beside the work, and that of quiet times before and after it. */
async function compare(what: string, server: Measured, work: () => Promise<unknown>): Promise<void> {
  const quietly = () => chatsWhile(server, pause(LOCK_MS));
  await quietly();
  const before = await quietly();
  const ms = await chatsWhile(server, work());
  const quiet = (before + (await quietly())) / 2;
  console.log(`${what}: p99 ${ms.toFixed(1)} ms, quiet ${quiet.toFixed(1)} ms, ${(ms / quiet).toFixed(2)} ×`);
}

async function lockRow(id: string): Promise<void> {
  const session = await mysql.createConnection(url);
  await session.beginTransaction();
  await session.query('SELECT id FROM conversations WHERE id = ? FOR UPDATE', [id]);
  await pause(LOCK_MS);
  await session.rollback();
  await session.end();
}

async function call(server: Measured, method: string, path: string, body?: unknown): Promise<unknown> {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`http://127.0.0.1:${server.port}${path}`, {
    method,
    headers,
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return response.status === 204 ? undefined : response.json();
}

async function deleteAndRemove(server: Measured, id: string): Promise<void> {
  await call(server, 'DELETE', `/api/conversations/${id}`);
  for (;;) {
    const [rows] = await admin.query<mysql.RowDataPacket[]>('SELECT 1 FROM conversations WHERE id = ?', [id]);
    if (rows.length === 0) return;
    await pause(200);
  }
}

async function purge(what: string): Promise<void> {
  const script = join(import.meta.dirname, '../scripts/purge.ts');
  const began = performance.now();
  const env = { ...process.env, DATABASE_URL: url };
  const { stdout } = await promisify(execFile)(process.execPath, [script], { env });
  const seconds = (performance.now() - began) / 1000;
  const slowest = await slowestStatement();
  console.log(
    `purge of ${what}: ${seconds.toFixed(1)} s, ${slowest}; ${stdout.trim().split('\n').at(-1) ?? ''}`,
  );
}

/** Runs an export job. @returns its manifest */
async function exportJob(server: Measured, request: object): Promise<{ cursor: string; messages: number }> {
  const { id } = (await call(server, 'POST', '/api/exports', { format: 'ndjson', ...request })) as {
    id: string;
  };
  for (;;) {
    const job = (await call(server, 'GET', `/api/exports/${id}`)) as { status: string; error?: string };
    if (job.status === 'done') break;
    if (job.status === 'failed') throw new Error(`the export failed: ${job.error}`);
    await pause(200);
  }
  return (await call(server, 'GET', `/api/exports/${id}/manifest`)) as { cursor: string; messages: number };
}

async function slowestStatement(): Promise<string> {
  const [rows] = await admin.query<mysql.RowDataPacket[]>(
    `SELECT TIME_TO_SEC(query_time) AS s, LEFT(sql_text, 60) AS text FROM mysql.slow_log
     WHERE db = DATABASE() ORDER BY query_time DESC LIMIT 1`,
  );
  await admin.query('TRUNCATE mysql.slow_log');
  const [row] = rows;
  return row
    ? `slowest statement ${Number(row.s).toFixed(2)} s (${String(row.text).replaceAll(/\s+/g, ' ')})`
    : `no statement over ${SLOW_SECONDS} s`;
}

const SCENARIOS: Readonly<Record<string, (server: Measured) => Promise<void>>> = {
  async lock(server) {
    const id = await addConversation(2, now());
    await compare('one row locked for 6 s', server, () =>
      // The chat in the locked conversation waits, or is refused with 503.
      Promise.all([
        lockRow(id),
        call(server, 'POST', '/api/chat', { message: 'wait', conversation_id: id, cache: false }),
      ]),
    );
  },
  async deletion(server) {
    const id = await addConversation(250_000, now());
    await compare('250,000 messages deleted', server, () => deleteAndRemove(server, id));
  },
  async purge() {
    const { conversations, messages } = PURGED;
    for (let n = 0; n < conversations; n += 1) await addConversation(messages, EXPIRED);
    await slowestStatement();
    await purge(`${conversations} × ${messages} messages`);
  },
  async million(server) {
    const id = await addConversation(1_000_000, now());
    await slowestStatement();
    const began = performance.now();
    await deleteAndRemove(server, id);
    const seconds = (performance.now() - began) / 1000;
    console.log(`1,000,000 messages removed: ${seconds.toFixed(1)} s, ${await slowestStatement()}`);
  },
  async many() {
    await addMany(1_000_000);
    await slowestStatement();
    await purge('1,000,000 × 1 message');
  },
  async export(server) {
    await fill(url, 5_000_000);
    // The cursor of any export covers the whole database.
    const { cursor } = await exportJob(server, { end_date: '2000-01-01T00:00:00Z' });
    await slowestStatement();
    const began = performance.now();
    const { messages } = await exportJob(server, { since: cursor });
    const seconds = (performance.now() - began) / 1000;
    const slowest = await slowestStatement();
    console.log(`incremental export of ${messages} messages: ${seconds.toFixed(1)} s, ${slowest}`);
  },
  async history() {
    const last = { plain: 0, each: 1, one: 100 };
    const reads = new Map<string, number[]>();
    const options = { poolMin: 0, poolMax: 1, acquireTimeoutMs: 5000, queryTimeoutMs: 0 };
    const database = openDatabase({ target: { kind: 'mysql', url }, ...options }, pino({ level: 'silent' }));
    try {
      const conversations = await Promise.all(
        Object.entries(last).map(async ([kind, times]) => [kind, await addRegenerated(times)] as const),
      );
      for (let n = 0; n < 600; n += 1) {
        for (const [kind, id] of conversations) {
          const began = performance.now();
          const { messages } = await database.conversations.context(id, UNRESTRICTED, 10, 0);
          if (messages.length !== 10) throw new Error(`${messages.length} messages`);
          if (n >= 100) reads.set(kind, [...(reads.get(kind) ?? []), performance.now() - began]);
        }
      }
    } finally {
      await database.close();
    }
    const [plain = 0, each = 0, one = 0] = Object.keys(last).map((kind) => median(reads.get(kind) ?? []));
    const ratio = (ms: number) => `${(ms / plain).toFixed(2)} ×`;
    console.log(
      `history: ${plain.toFixed(2)} ms; 100 replies regenerated ${ratio(each)}, the last one 100 times ${ratio(one)}`,
    );
  },
  async migrations(server) {
    await fill(url, 1_000_000, false);
    console.log(`quiet: slowest chat ${(await chatsWhile(server, pause(LOCK_MS), 100)).toFixed(0)} ms`);
    const options = { poolMin: 0, poolMax: 1, acquireTimeoutMs: 5000, queryTimeoutMs: 0 };
    const knex = createKnex({ target: { kind: 'mysql', url }, ...options });
    try {
      for (const name of await pendingMigrations(knex)) {
        const began = performance.now();
        let seconds = 0;
        const step = knex.migrate.up(migrationSettings()).then(() => {
          seconds = (performance.now() - began) / 1000;
        });
        const slowest = await chatsWhile(server, step, 100);
        console.log(`${name}: ${seconds.toFixed(2)} s, slowest chat ${slowest.toFixed(0)} ms`);
      }
    } finally {
      await knex.destroy();
    }
  },
};

const databases = await benchDatabases('slow');
const url = databases.list[1]?.url ?? '';
const upstream = await startPeer('./upstream.ts');
const admin = await mysql.createConnection(url);
try {
  const slow = `SET GLOBAL log_output = 'TABLE', GLOBAL slow_query_log = ON, GLOBAL long_query_time = ${SLOW_SECONDS}`;
  await admin.query(slow);
  for (const name of positionals.length > 0 ? positionals : ['lock', 'deletion', 'purge']) {
    const scenario = SCENARIOS[name];
    if (!scenario) throw new Error(`no such row: ${name}; there are ${Object.keys(SCENARIOS).join(', ')}`);
    const checkout = name === 'migrations' ? values.earlier : undefined;
    if (name === 'migrations' && checkout === undefined)
      throw new Error('migrations needs --earlier CHECKOUT');
    const server = await startSubject(upstream.port, url, { CONVERSATION_TTL_HOURS: '0' }, checkout);
    try {
      await scenario(server);
    } finally {
      await server.stop();
    }
    await databases.empty();
  }
} finally {
  await admin.end();
  await upstream.stop();
  await databases.stop();
}
