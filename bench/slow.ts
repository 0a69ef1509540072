/**
 * `npm run bench:slow -- [--messages N]`: the p99 of chats on MySQL or MariaDB while another session locks the row of
 * one conversation for 6 s, and while a conversation of N messages (default 250,000) is deleted, each against a quiet
 * time of the same run; and the time of `npm run purge` for 200 conversations of 2,500 messages with default settings.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import mysql from 'mysql2/promise';
import { createIdSource } from '../src/ids.ts';
import { benchDatabases } from './databases.ts';
import { percentile, run } from './load.ts';
import { type Measured, startPeer, startSubject } from './processes.ts';

const { values: flags } = parseArgs({ options: { messages: { type: 'string', default: '250000' } } });
const MESSAGES = Number(flags.messages);
const PURGED = { conversations: 200, messages: 2500 };
const CONCURRENCY = 8;
const CHATS = 250;
const LOCK_MS = 6000;
const BATCH = 2000;

const ids = createIdSource();

/** Inserts a conversation last active at `time` (the database's format); returns its id. */
async function addConversation(admin: mysql.Connection, messages: number, time: string): Promise<string> {
  const id = ids.next();
  await admin.query('INSERT INTO conversations (id, created_at, last_active) VALUES (?)', [[id, time, time]]);
  for (let n = 0; n < messages; n += BATCH) {
    const rows = Array.from({ length: Math.min(BATCH, messages - n) }, (_, i) => {
      const role = i % 2 === 0 ? 'user' : 'assistant';
      return [ids.next(), id, role, `message ${n + i}, not long`, time, 'complete', time];
    });
    await admin.query(
      'INSERT INTO messages (uid, conversation_id, role, content, timestamp, status, updated_at) VALUES ?',
      [rows],
    );
  }
  return id;
}

/** The p99 of stored chats in new conversations, ms; they go on until `work` is done. */
async function chatsWhile(server: Measured, work: Promise<unknown>): Promise<number> {
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
  return percentile(firsts, 99);
}

async function lockRow(url: string, id: string): Promise<void> {
  const session = await mysql.createConnection(url);
  await session.beginTransaction();
  await session.query('SELECT id FROM conversations WHERE id = ? FOR UPDATE', [id]);
  await new Promise((resolve) => setTimeout(resolve, LOCK_MS));
  await session.rollback();
  await session.end();
}

/** A chat in the locked conversation: it waits, or is refused with 503. */
async function chatIn(server: Measured, id: string): Promise<void> {
  const body = JSON.stringify({ message: 'wait', conversation_id: id, cache: false });
  const headers = { 'content-type': 'application/json' };
  await (await fetch(`http://127.0.0.1:${server.port}/api/chat`, { method: 'POST', headers, body })).text();
}

async function deleteAndRemove(server: Measured, admin: mysql.Connection, id: string): Promise<void> {
  await fetch(`http://127.0.0.1:${server.port}/api/conversations/${id}`, { method: 'DELETE' });
  for (;;) {
    const [rows] = await admin.query<mysql.RowDataPacket[]>('SELECT 1 FROM conversations WHERE id = ?', [id]);
    if (rows.length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

async function purgeSeconds(url: string): Promise<number> {
  const script = join(import.meta.dirname, '../scripts/purge.ts');
  const began = performance.now();
  await promisify(execFile)(process.execPath, [script], { env: { ...process.env, DATABASE_URL: url } });
  return (performance.now() - began) / 1000;
}

const databases = await benchDatabases('slow');
const upstream = await startPeer('./upstream.ts');
try {
  const url = databases.list[1]?.url ?? '';
  const server = await startSubject(upstream.port, url, { CONVERSATION_TTL_HOURS: '0' });
  const admin = await mysql.createConnection(url);
  try {
    const now = new Date().toISOString().replace('T', ' ').slice(0, 23);
    const quietly = () => chatsWhile(server, new Promise((resolve) => setTimeout(resolve, LOCK_MS)));
    const show = (what: string, ms: number, quiet: number) =>
      console.log(
        `${what}: p99 ${ms.toFixed(1)} ms, quiet ${quiet.toFixed(1)} ms, ${(ms / quiet).toFixed(2)} ×`,
      );
    await quietly();

    const locked = await addConversation(admin, 2, now);
    const beforeLock = await quietly();
    const held = lockRow(url, locked);
    const waiting = chatIn(server, locked);
    show('one row locked for 6 s', await chatsWhile(server, held), (beforeLock + (await quietly())) / 2);
    await waiting;

    const long = await addConversation(admin, MESSAGES, now);
    const beforeDelete = await quietly();
    const deleting = await chatsWhile(server, deleteAndRemove(server, admin, long));
    show(`${MESSAGES} messages deleted`, deleting, (beforeDelete + (await quietly())) / 2);

    for (let n = 0; n < PURGED.conversations; n += 1) {
      await addConversation(admin, PURGED.messages, '2024-01-01 00:00:00.000');
    }
    await server.stop();
    const seconds = await purgeSeconds(url);
    const { conversations, messages } = PURGED;
    console.log(`purge of ${conversations} × ${messages} messages: ${seconds.toFixed(1)} s`);
  } finally {
    await admin.end();
  }
} finally {
  await upstream.stop();
  await databases.stop();
}
