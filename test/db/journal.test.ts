import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import Sqlite from 'better-sqlite3';
import { Journal } from '../../src/db/journal/journal.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { TurnWrite } from '../../src/domain/chat/turns.ts';
import { cpuMs } from '../support/ticks.ts';
import { newId, replyTo, startOf, userMessage } from './fixtures.ts';

const MODULE = new URL('../../src/db/journal/journal.ts', import.meta.url).href;
const MANY_BYTES = 100_000_000;

/** A file of the test's own, and instances on it as different processes would have them. */
function place(t: TestContext, maxBytes = MANY_BYTES) {
  const folder = mkdtempSync(join(tmpdir(), 'chat-journal-'));
  const path = join(folder, 'data', 'journal.sqlite');
  const opened: (Journal | Sqlite.Database)[] = [];
  const keep = <T extends Journal | Sqlite.Database>(each: T): T => {
    opened.push(each);
    return each;
  };
  t.after(async () => {
    for (const each of opened) await each.close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  return {
    path,
    open: () => keep(new Journal(path, maxBytes)),
    /** The file as SQLite sees it. */
    file: () => keep(new Sqlite(path)),
  };
}

/** The start of a new conversation. */
const newStart = (content = 'a question'): TurnWrite => ({
  start: startOf(userMessage(newId(), { content }), { named: false }),
});

const units = (journal: Journal) => journal.take(1000).map(({ unit }) => unit);

/** Runs code that has `journal` and `unit(n)`; its lines on standard output come one by one. */
function child(t: TestContext, path: string, code: string) {
  const prelude = `
    import { Journal } from ${JSON.stringify(MODULE)};
    const journal = await Journal.open(${JSON.stringify(path)}, ${MANY_BYTES});
    const say = (line) => new Promise((resolve) => process.stdout.write(line + '\\n', resolve));
    const message = (name, n) => ({
      uid: name + n, conversationId: name, role: 'user', content: 'said ' + n, timestamp: n, status: 'complete',
      replyTo: null, model: null, finishReason: null, usage: null, format: null,
    });
    const unit = (name, n) => ({
      start: { conversationId: name, named: n > 0, expiredBefore: 0, by: { owner: null, unrestricted: true },
        message: message(name, n) },
    });`;
  const process_ = spawn(process.execPath, ['--input-type=module', '-e', prelude + code], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => process_.kill('SIGKILL'));
  return { process: process_, lines: createInterface({ input: process_.stdout }) };
}

async function killed(process: ChildProcess): Promise<void> {
  const gone = once(process, 'exit');
  process.kill('SIGKILL');
  await gone;
}

describe('an appended turn', () => {
  test('is read unchanged and in order, also by another process of the host', async (t) => {
    const { open } = place(t);
    const [one, other] = [open(), open()];
    const question = userMessage(newId(), { content: '中文 \u{1f600}\u0000 "x"\n' });
    const handed: TurnWrite[] = [
      { start: startOf(question), activeAt: 12 },
      { reply: replyTo(question, { content: 'y'.repeat(100_000), usage: null, finishReason: null }) },
      newStart(),
    ];
    for (const unit of handed) await one.append(unit);
    assert.deepEqual(units(other), handed);
    assert.deepEqual(units(one), handed);
    const seqs = other.take(2).map(({ seq }) => seq);
    await other.remove(seqs);
    assert.deepEqual(units(one), handed.slice(2));
  });

  test('by an earlier version is understood: without an access, or with "all" for "unrestricted"', async (t) => {
    const journal = place(t).open();
    const unit = newStart();
    const text = JSON.stringify(unit);
    const by = /"by":{[^}]*}/;
    for (const old of [text.replace(by, '"by":{"all":true,"owner":null}'), text.replace(by, '"x":0')]) {
      await journal.append(JSON.parse(old));
    }
    assert.deepEqual(
      units(journal).map((read) => read?.start?.by),
      [UNRESTRICTED, UNRESTRICTED],
    );
  });

  test('at the same time as others shares one transaction', async (t) => {
    const { open, path } = place(t);
    const journal = open();
    const size = () => statSync(`${path}-wal`).size;
    const before = size();
    await Promise.all(Array.from({ length: 100 }, () => journal.append(newStart())));
    const together = size() - before;
    for (let index = 0; index < 100; index += 1) await journal.append(newStart());
    const apart = size() - before - together;
    assert(together * 4 < apart, `${together} bytes of log for 100 at once, ${apart} one by one`);
    assert.equal(journal.state().turns, 200);
  });

  test('survives the death of the process, and the replay lock is free again', async (t) => {
    const { open, path } = place(t);
    const { process, lines } = child(
      t,
      path,
      `await journal.exclusively(async () => {
        for (let n = 0; ; n += 1) {
          await journal.append(unit('a', n));
          await say(String(n));
        }
      });`,
    );
    const acknowledged: string[] = [];
    const journal = open();
    for await (const line of lines) {
      acknowledged.push(line);
      if (acknowledged.length !== 50) continue;
      assert.equal(await journal.exclusively(assert.fail), false);
      await killed(process);
    }
    const found = journal.take(1000).map(({ uid }) => uid);
    assert.deepEqual(
      found.slice(0, acknowledged.length),
      acknowledged.map((n) => `a${n}`),
    );
    assert(found.length <= acknowledged.length + 1, 'no more than what was on its way');
    assert.equal(await journal.exclusively(async () => {}), true);
  });

  test('by several processes that create the file at the same time is stored', async (t) => {
    const { path } = place(t);
    const names = ['a', 'b', 'c', 'd'];
    const rounds = Array.from({ length: 20 }, (_, round) => `${path}-${round}`);
    const start = Date.now() + 1500;
    const each = names.map((name) =>
      child(
        t,
        path,
        `for (const [round, file] of ${JSON.stringify(rounds)}.entries()) {
          const moment = ${start} + round * 40;
          await new Promise((resolve) => setTimeout(resolve, moment - 3 - Date.now()));
          while (Date.now() < moment);
          const fresh = await Journal.open(file, ${MANY_BYTES});
          await Promise.all([0, 1, 2].map((n) => fresh.append(unit('${name}', n))));
          await fresh.close();
        }`,
      ),
    );
    const codes = await Promise.all(each.map(async ({ process }) => (await once(process, 'exit'))[0]));
    assert.deepEqual(codes, [0, 0, 0, 0]);
    for (const file of rounds) {
      const journal = new Journal(file, MANY_BYTES);
      const uids = journal.take(100).map(({ uid }) => uid ?? '');
      await journal.close();
      const expected = names.flatMap((name) => [0, 1, 2].map((n) => `${name}${n}`));
      assert.deepEqual(uids.toSorted(), expected);
    }
  });

  test('is rejected when the journal is closed', async (t) => {
    const journal = place(t).open();
    await journal.close();
    await assert.rejects(journal.append(newStart()), { code: 'database_unavailable' });
    assert.throws(() => journal.has('x'), { code: 'database_unavailable' });
  });

  test('and not written yet is written by close()', async (t) => {
    const { open } = place(t);
    const journal = open();
    const written = journal.append(newStart());
    await journal.close();
    await written;
    assert.equal(open().state().turns, 1);
  });
});

describe('a full journal', () => {
  test('rejects new turns, but accepts the ends of running ones', async (t) => {
    const journal = place(t, 5000).open();
    const question = userMessage(newId(), { content: 'x'.repeat(4000) });
    await journal.append({ start: startOf(question) });
    const second = userMessage(question.conversationId, { content: 'x'.repeat(1000) });
    await journal.append({ start: startOf(second) });
    await assert.rejects(journal.append(newStart()), {
      code: 'database_unavailable',
      retryAfter: 2,
      message: /database is unavailable.*journal.*full/,
    });
    await journal.append({ reply: replyTo(question) });
    assert.equal(journal.state().turns, 3);
    await journal.remove(journal.take(1).map(({ seq }) => seq));
    await journal.append(newStart());
  });

  test('counts turns that arrive together', async (t) => {
    const journal = place(t, 5000).open();
    const settled = await Promise.allSettled(
      [3000, 3000, 1, 1].map((length) => journal.append(newStart('x'.repeat(length)))),
    );
    assert.deepEqual(
      settled.map(({ status }) => status),
      ['fulfilled', 'fulfilled', 'rejected', 'rejected'],
    );
  });
});

describe('a file that cannot be written', () => {
  test('rejects a turn without space, and accepts the others', async (t) => {
    const journal = place(t, 1000).open();
    const question = userMessage(newId());
    const large = replyTo(question, { content: 'x'.repeat(20_000_000) });
    const settled = await Promise.allSettled([
      journal.append({ start: startOf(question) }),
      journal.append({ reply: large }),
      journal.append({ reply: replyTo(question) }),
    ]);
    assert.deepEqual(
      settled.map(({ status }) => status),
      ['fulfilled', 'rejected', 'fulfilled'],
    );
    assert.equal(units(journal).length, 2);
    await assert.rejects(journal.append({ reply: large }), (error: Error & { code: string }) => {
      assert.equal(error.code, 'database_unavailable');
      assert(error.cause instanceof Sqlite.SqliteError);
      assert.equal(error.cause.code, 'SQLITE_FULL');
      return true;
    });
    await journal.append({ reply: replyTo(question) });
    assert.equal(journal.state().turns, 3);
  });

  test('fails a bad row alone', async (t) => {
    const { open, file } = place(t);
    const journal = open();
    file().exec(`CREATE TRIGGER bad BEFORE INSERT ON entries WHEN NEW.conversation_id = 'bad'
      BEGIN SELECT RAISE(ABORT, 'no'); END`);
    const bad = { start: startOf(userMessage('bad')) };
    const settled = await Promise.allSettled(
      [newStart(), bad, newStart()].map((unit) => journal.append(unit)),
    );
    assert.deepEqual(
      settled.map(({ status }) => status),
      ['fulfilled', 'rejected', 'fulfilled'],
    );
    assert.equal(journal.state().turns, 2);
  });

  test('is not opened when it is no journal, or one of a newer version', async (t) => {
    const { open, path } = place(t);
    await open().close();
    const raw = new Sqlite(path);
    raw.pragma('user_version = 99');
    raw.close();
    assert.throws(() => new Journal(path, 1), /version \(99\)/);
    const other = join(tmpdir(), `no-journal-${newId()}.sqlite`);
    t.after(() => rmSync(other));
    writeFileSync(
      other,
      'something else, and long enough to have a header of its own, which is a hundred bytes'.repeat(9),
    );
    assert.throws(() => new Journal(other, 1), { code: 'SQLITE_NOTADB' });
  });
});

describe('a file that another program has locked', () => {
  /** Until the returned function is called. */
  function locked(t: TestContext, path: string, ...statements: string[]): () => void {
    const other = new Sqlite(path);
    t.after(() => other.close());
    for (const sql of [...statements, 'BEGIN IMMEDIATE']) other.exec(sql);
    return () => other.close();
  }

  /** A wait of SQLite itself would be one of 5 s, because this thread holds the lock. */
  const BLOCK_MS = 2500;

  /** The longest time, milliseconds, for which `work` has blocked the event loop. */
  async function longestBlock(work: () => Promise<unknown>): Promise<number> {
    let longest = 0;
    let last = performance.now();
    const look = () => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    };
    const timer = setInterval(look, 1);
    await work();
    look();
    clearInterval(timer);
    return longest;
  }

  test('delays writes, in order, and neither reads nor the event loop', async (t) => {
    const { open, path } = place(t);
    const journal = open();
    const [first, second] = [userMessage(newId()), userMessage(newId())];
    await journal.append({ start: startOf(first, { named: false }) });
    const release = locked(t, path);
    const reply = replyTo(first);
    const longest = await longestBlock(async () => {
      const writes = Promise.all([
        journal.append({ start: startOf(second, { named: false }) }),
        journal.append({ reply }),
        journal.drop(second.conversationId),
        journal.append({ start: startOf(second, { named: false }) }),
        journal.remove(journal.take(1).map(({ seq }) => seq)),
      ]);
      assert.equal(await Promise.race([writes, delay(300, 'waiting')]), 'waiting');
      assert.equal(journal.isEmpty(), false);
      assert.equal(journal.has(second.conversationId), true);
      assert.deepEqual(journal.reply(reply.uid), reply);
      assert.deepEqual(journal.conversation(first.conversationId)?.messages, [first, reply]);
      assert.equal(journal.state().turns, 4);
      release();
      assert.equal((await writes)[2], 1);
    });
    assert.deepEqual(
      units(journal).map((unit) => unit?.reply?.uid ?? unit?.start?.message.uid),
      [reply.uid, second.uid],
    );
    assert.equal(journal.state().turns, 2);
    assert(longest < BLOCK_MS, `${longest} ms`);
  });

  test('rejects writes after a bounded time, and works again afterwards', async (t) => {
    const { open, path } = place(t);
    const journal = open();
    const release = locked(t, path);
    const longest = await longestBlock(async () => {
      await assert.rejects(journal.append(newStart()), { code: 'database_unavailable' });
    });
    assert(longest < BLOCK_MS, `${longest} ms`);
    assert.equal(journal.isEmpty(), true);
    release();
    await journal.append(newStart());
    assert.equal(journal.state().turns, 1);
  });

  test('is waited for when it is opened', async (t) => {
    const { open, path } = place(t);
    await open().close();
    const release = locked(t, path, 'PRAGMA locking_mode = EXCLUSIVE', 'SELECT 1 FROM entries');
    const longest = await longestBlock(async () => {
      const opening = Journal.open(path, MANY_BYTES);
      await delay(300);
      release();
      await (await opening).close();
    });
    assert(longest < BLOCK_MS, `${longest} ms`);
  });
});

describe('a removed turn', () => {
  test('is no longer counted, and with the last one the WAL file is truncated', async (t) => {
    const { open, path } = place(t);
    const journal = open();
    const began = Date.now();
    for (let index = 0; index < 20; index += 1) await journal.append(newStart());
    const { turns, bytes, oldest } = journal.state();
    assert.equal(turns, 20);
    assert.equal(
      bytes,
      units(journal).reduce((sum, unit) => sum + JSON.stringify(unit).length, 0),
    );
    assert(oldest !== null && oldest >= began && oldest <= Date.now());
    assert(statSync(`${path}-wal`).size > 0);
    await journal.remove(journal.take(100).map(({ seq }) => seq));
    assert.deepEqual(journal.state(), { turns: 0, bytes: 0, oldest: null });
    assert.equal(statSync(`${path}-wal`).size, 0);
    assert.equal(journal.isEmpty(), true);
  });

  test('never passes its number to another', async (t) => {
    const journal = place(t).open();
    await journal.append(newStart());
    const [first] = journal.take(1);
    assert(first);
    await journal.remove([first.seq]);
    await journal.append(newStart());
    assert((journal.take(1)[0]?.seq ?? 0) > first.seq);
  });

  test('that was moved aside is kept with the reason', async (t) => {
    const { open, file } = place(t);
    const journal = open();
    const question = userMessage(newId());
    await journal.append({ start: startOf(question) });
    await journal.append(newStart());
    assert.equal(journal.wasRejected(question.conversationId, question.uid), false);
    await journal.reject(journal.take(1)[0]?.seq ?? 0, 'ER_SOMETHING');
    assert.equal(journal.state().turns, 1);
    assert.equal(journal.wasRejected(question.conversationId, question.uid), true);
    const rows = file().prepare('SELECT question_uid, reason, body FROM rejected').all();
    const body = JSON.stringify({ start: startOf(question) });
    assert.deepEqual(rows, [{ question_uid: question.uid, reason: 'ER_SOMETHING', body }]);
  });

  test('of a deleted conversation is removed with all its turns and no others', async (t) => {
    const { open, file } = place(t);
    const journal = open();
    const question = userMessage(newId());
    const other = newStart();
    await journal.append({ start: startOf(question) });
    await journal.append(other);
    await journal.reject(journal.take(1)[0]?.seq ?? 0, 'some reason');
    await journal.append({ start: startOf(userMessage(question.conversationId)) });
    const late = journal.append({ reply: replyTo(question) });
    assert.equal(await journal.drop(question.conversationId), 3);
    await late;
    assert.equal(journal.has(question.conversationId), false);
    assert.deepEqual(units(journal), [other]);
    assert.deepEqual(file().prepare('SELECT * FROM rejected').all(), []);
    assert.equal(await journal.drop(question.conversationId), 0);
  });

  test('is read in batches of bounded size', async (t) => {
    const journal = place(t).open();
    const long = 'x'.repeat(5_000_000);
    for (const content of [long, long, 'short']) await journal.append(newStart(content));
    assert.equal(journal.take(100).length, 1);
    await journal.remove(journal.take(100).map(({ seq }) => seq));
    assert.equal(journal.take(100).length, 2);
    assert.equal(journal.take(1).length, 1);
  });

  for (const body of ['{', 'null', '[]', '{}', '{"start":{}}', '{"reply":{"uid":"x"}}', '{"reply":7}']) {
    test(`is reported when it cannot be read: ${body}`, async (t) => {
      const { open, file } = place(t);
      const journal = open();
      const unit = newStart();
      await journal.append(unit);
      file().prepare('UPDATE entries SET body = ?').run(body);
      const [entry] = journal.take(1);
      assert.equal(entry?.unit, null);
      assert.equal(entry.conversationId, unit.start?.conversationId);
      assert.equal(entry.uid, unit.start?.message.uid);
      assert.equal(journal.conversation(entry.conversationId), null);
    });
  }
});

describe('the journalled turns of a conversation', () => {
  test('are known as soon as they arrive', async (t) => {
    const journal = place(t).open();
    const unit = newStart();
    const id = unit.start?.conversationId ?? '';
    assert.equal(journal.has(id), false);
    const written = journal.append(unit);
    assert.equal(journal.has(id), true);
    assert.equal(journal.state().turns, 1);
    await written;
    assert.equal(journal.has(id), true);
    assert.equal(journal.has(newId()), false);
  });

  test('are all of it when it began here: each reply in its last state', async (t) => {
    const { open } = place(t);
    const [journal, other] = [open(), open()];
    const first = userMessage(newId());
    const { conversationId } = first;
    const begun = replyTo(first, { status: 'streaming', content: '' });
    const ended = { ...begun, status: 'complete' as const, content: 'all of it' };
    const second = userMessage(conversationId, { content: 'more' });
    const unfinished = replyTo(second, { status: 'streaming', content: '' });
    assert.equal(journal.conversation(conversationId), null);
    await journal.append({ start: startOf(first, { named: false, system: 'Be brief.' }), reply: begun });
    await journal.append(newStart());
    assert.deepEqual(journal.conversation(conversationId)?.messages, [first, begun]);
    assert.equal(journal.conversation(conversationId)?.system, 'Be brief.');
    await journal.append({ start: startOf(second), reply: unfinished });
    await journal.append({ reply: ended });
    await journal.append({ reply: { ...ended, content: 'repeated' } });
    assert.deepEqual(other.conversation(conversationId)?.messages, [first, ended, second, unfinished]);
    assert.deepEqual(other.reply(unfinished.uid), unfinished);
    assert.equal(other.reply(ended.uid)?.status, 'complete');
    assert.equal(other.reply(first.uid), null);
    assert.equal(other.reply(newId()), null);
  });

  test('are not all of it when the database may have more', async (t) => {
    const journal = place(t).open();
    const named = userMessage(newId());
    await journal.append({ start: startOf(named) });
    assert.equal(journal.conversation(named.conversationId), null);
    const question = userMessage(newId());
    await journal.append({ reply: replyTo(question) });
    await journal.append({ start: startOf(question, { named: false }) });
    assert.equal(journal.conversation(question.conversationId), null);
  });

  test('are cheap to look up in an empty journal', (t) => {
    const journal = place(t).open();
    const began = cpuMs();
    for (let index = 0; index < 10_000; index += 1) journal.has('x');
    assert(cpuMs() - began < 1000, 'under 100 µs each, of which a few are expected');
  });
});

describe('exclusively()', () => {
  test('runs one at a time, in this process and among instances', async (t) => {
    const { open } = place(t);
    const [one, other] = [open(), open()];
    const ran = await one.exclusively(async () => {
      assert.equal(await one.exclusively(assert.fail), false);
      assert.equal(await other.exclusively(assert.fail), false);
      await one.append(newStart());
      await other.append(newStart());
    });
    assert.equal(ran, true);
    assert.equal(await other.exclusively(async () => {}), true);
  });

  test('releases the lock when the work fails', async (t) => {
    const { open } = place(t);
    const [one, other] = [open(), open()];
    const failing = one.exclusively(() => Promise.reject(new Error('no')));
    await assert.rejects(failing, /^Error: no$/);
    assert.equal(await other.exclusively(async () => {}), true);
  });
});
