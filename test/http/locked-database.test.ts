/** Another program locks the database while the server is used. Nothing here is an outage. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import Sqlite from 'better-sqlite3';
import mysql from 'mysql2/promise';
import { type Answer, type ChatServer, databases, problemOf, startChat } from '../support/chat-server.ts';
import { createGate, delta, done, finish, script, wait } from '../support/fake-upstream.ts';
import { bodyOf, type Person, type ProtectedServer, startProtected } from '../support/keys.ts';
import { scriptFolder } from '../support/script.ts';
import { joined, openStream } from '../support/sse-client.ts';

/** The longest time of a request for /health, which are made until `work` has ended. */
async function slowestHealth(chat: ChatServer, work: Promise<unknown>): Promise<number> {
  let isOver = false;
  const ended = work.finally(() => {
    isOver = true;
  });
  let slowest = 0;
  while (!isOver) {
    const began = performance.now();
    assert.equal((await chat.call('GET', '/health')).status, 200);
    slowest = Math.max(slowest, performance.now() - began);
    await pause(20);
  }
  await ended;
  return slowest;
}

/**
 * Waits for two responses of /health. If /health waited for the lock, the lock would be held until then, and the
 * requests that wait for it would fail after 5 s.
 */
async function momentOf(chat: ChatServer): Promise<void> {
  for (const ms of [0, 1500]) {
    await pause(ms);
    assert.equal((await chat.call('GET', '/health')).status, 200);
  }
}

const LONG_MS = 9000;
/** What a busy machine may need; a server that waits for the lock takes as long as the lock. */
const PROMPT_MS = 4000;

for (const place of databases().slice(1)) {
  describe(`a server whose database is locked by another session, on ${place.name},`, () => {
    let chat: ProtectedServer;
    let alice: Person;
    let conversation_id: string;
    let url: string;

    before(async () => {
      let env: Record<string, string> = {};
      const remembered = { ...place, create: async () => (env = await place.create()) };
      // Limits count in their table.
      chat = await startProtected(remembered, {
        RATE_LIMIT_REQUESTS: '100000',
        RATE_LIMIT_EXPORTS: '100000',
      });
      url = env.DATABASE_URL ?? '';
      alice = await chat.person('alice');
      conversation_id = bodyOf(await alice.call('POST', '/api/chat', { message: 'hello' })).conversation_id;
    });
    after(() => chat.stop());

    /** A session with locks. @returns what releases them */
    async function locking(t: TestContext, ...statements: string[]): Promise<() => Promise<void>> {
      const session = await mysql.createConnection({ uri: url });
      let isHeld = true;
      const release = async () => {
        if (isHeld) await session.end();
        isHeld = false;
      };
      t.after(release);
      for (const sql of statements) await session.query(sql);
      return release;
    }

    /** One request of each kind at the same time. */
    function requests(message: string): Record<string, Promise<Answer>> {
      const key = { 'idempotency-key': `key-${crypto.randomUUID()}` };
      return {
        chat: alice.call('POST', '/api/chat', { message, cache: false }),
        continued: alice.call('POST', '/api/chat', { message, conversation_id, cache: false }),
        keyed: alice.call('POST', '/api/chat', { message, cache: false }, key),
        read: alice.call('GET', `/api/conversations/${conversation_id}`),
        list: alice.call('GET', '/api/conversations'),
        job: alice.call('POST', '/api/exports', { format: 'csv' }),
        keys: chat.root.call('GET', '/api/keys'),
        created: chat.root.call('POST', '/api/keys', { owner: 'bob', scopes: ['chat'] }),
      };
    }

    /** All messages are where their callers were told. */
    async function assertStored(answers: Record<string, Answer>, message: string): Promise<void> {
      for (const kind of ['chat', 'continued', 'keyed']) {
        const answer = answers[kind] ?? assert.fail();
        if (answer.status !== 200) continue;
        const { conversation_id: id, persisted } = bodyOf(answer);
        assert.equal(persisted, true, kind);
        const texts = (await chat.rows(id)).map(({ content }) => content);
        assert.deepEqual(texts.slice(-2), [message, `echo: ${message}`], kind);
      }
      assert(!chat.server.lines.some(({ msg }) => msg === 'database unavailable, journaling'));
    }

    const settled = async (asked: Record<string, Promise<Answer>>): Promise<Record<string, Answer>> =>
      Object.fromEntries(
        await Promise.all(Object.entries(asked).map(async ([kind, answer]) => [kind, await answer])),
      );

    for (const table of [
      ...['conversations', 'messages', 'deletions', 'idempotency_keys', 'workers', 'export_jobs', 'secrets'],
      ...['api_keys', 'rate_limits'],
    ]) {
      it(`for a moment, the table ${table}: what needs it waits, and nothing is lost`, async (t) => {
        const release = await locking(t, `LOCK TABLES ${table} WRITE`);
        const message = `while ${table} is locked`;
        const asked = settled(requests(message));
        await momentOf(chat);
        await release();
        const answers = await asked;
        for (const [kind, { status, text }] of Object.entries(answers)) {
          assert([200, 201, 202].includes(status), `${kind}: ${status} ${text}`);
        }
        await assertStored(answers, message);
      });
    }

    it('has no table that these tests leave out', async () => {
      const [tables] = await chat.server.database.knex.raw('SHOW TABLES');
      const names = tables
        .flatMap((row: object) => Object.values(row))
        .filter((name: string) => !/^knex_/.test(name));
      assert.equal(names.length, 9, names.join());
    });

    it('for long, refuses what needs the table within a bounded time, and recovers', async (t) => {
      const release = await locking(t, 'LOCK TABLES messages WRITE');
      const began = performance.now();
      const asked = settled(requests('refused'));
      const slowest = await slowestHealth(chat, asked);
      const took = performance.now() - began;
      const answers = await asked;
      assert(slowest < PROMPT_MS, `/health took ${slowest} ms`);
      assert(took < 20_000, `${took} ms`);
      for (const kind of ['chat', 'continued', 'keyed', 'read']) {
        const answer = answers[kind] ?? assert.fail();
        problemOf(answer, 503, 'database_busy');
        assert(Number(answer.headers['retry-after']) > 0, kind);
      }
      await release();
      const again = await settled(requests('afterwards'));
      await assertStored(again, 'afterwards');
      assert.equal(again.chat?.status, 200);
      const { messages } = bodyOf(await alice.call('GET', `/api/conversations/${conversation_id}`));
      assert(!messages.some(({ content }: { content: string }) => content === 'refused'));
    });

    it('by a change of the schema that waits: what needs the table waits too, and nothing is lost', async (t) => {
      const reader = await locking(t, 'START TRANSACTION', 'SELECT 1 FROM messages LIMIT 1');
      const session = await mysql.createConnection({ uri: url });
      t.after(() => session.end());
      const altered = session.query('ALTER TABLE messages ADD COLUMN of_another_program INT NULL');
      await pause(200);
      const asked = settled(requests('during a change'));
      await momentOf(chat);
      await reader();
      const answers = await asked;
      await altered;
      await session.query('ALTER TABLE messages DROP COLUMN of_another_program');
      for (const [kind, { status, text }] of Object.entries(answers)) {
        assert([200, 201, 202].includes(status), `${kind}: ${status} ${text}`);
      }
      await assertStored(answers, 'during a change');
    });
  });
}

describe('a server whose SQLite file is locked by another program for nine seconds', () => {
  it('responds to reads and /health, continues streams, and writes later, as the scripts do', async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'chat-locked-file-'));
    const DATABASE_URL = `sqlite:${join(folder, 'chat.sqlite')}`;
    const chat = await startChat({ DATABASE_URL });
    const scripts = scriptFolder(DATABASE_URL);
    const other = new Sqlite(join(folder, 'chat.sqlite'));
    t.after(async () => {
      other.close();
      await chat.stop();
      scripts.remove();
      await rm(folder, { recursive: true, force: true });
    });
    const { conversation_id } = await chat.ask({ message: 'before' });
    const gates = Array.from({ length: 8 }, () => createGate());
    const words = gates.flatMap((gate, n) => [wait(gate), delta(`word ${n} `)]);
    chat.upstream.respond([script(...words, finish(), done())]);
    const stream = await openStream(chat.url, { message: 'stream', format: 'markdown', cache: false });
    await stream.until('start');

    other.exec('BEGIN IMMEDIATE');
    const began = performance.now();
    const late = [
      ...['one', 'two'].map((message) => chat.call('POST', '/api/chat', { message, conversation_id })),
      chat.call('DELETE', `/api/conversations/${crypto.randomUUID()}`),
    ];
    const keys = scripts.start('keys', ['create', '--owner', 'ops', '--scopes', 'chat']).ended;
    const purge = scripts.start('purge', []).ended;
    const exported = scripts.start('export', ['--format', 'ndjson']).ended;
    const reads: number[] = [];
    const slowest = await slowestHealth(
      chat,
      (async () => {
        for (const gate of gates) {
          gate.open();
          await stream.until('content');
          const asked = performance.now();
          await chat.read(conversation_id);
          reads.push(performance.now() - asked);
          await pause(began + LONG_MS - performance.now() > 1100 ? 1100 : 0);
        }
      })(),
    );
    await pause(Math.max(0, began + LONG_MS - performance.now()));
    other.exec('ROLLBACK');
    assert(Math.max(...reads) < PROMPT_MS, `reads took ${reads} ms`);
    assert(slowest < PROMPT_MS, `/health took ${slowest} ms`);
    const [one, two, deleted] = await Promise.all(late);
    for (const answer of [one, two]) assert.equal(bodyOf(answer ?? assert.fail()).persisted, true);
    assert.equal(deleted?.status, 404);
    const rest = await stream.rest();
    assert.equal(rest.at(-1)?.data.persisted, true);
    for (const ended of await Promise.all([keys, purge, exported])) assert.equal(ended.code, 0, ended.stderr);
    assert.match((await exported).stdout.toString(), /before/);
    assert.equal((await chat.rows(String(stream.headers['x-conversation-id']))).at(-1)?.status, 'complete');
    assert.equal(joined(rest), '');
  });
});
