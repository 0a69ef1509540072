import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import Sqlite from 'better-sqlite3';
import fc from 'fast-check';
import mysql from 'mysql2/promise';
import { type Logger, pino } from 'pino';
import { databaseUnavailable } from '../../src/db/core/errors.ts';
import { type Database, openDatabase } from '../../src/db/database.ts';
import { Journal } from '../../src/db/journal/journal.ts';
import { type DurableOptions, DurableWriter } from '../../src/db/turns/durable-writer.ts';
import type {
  KeyClaim,
  ReplyProgress,
  TurnWrite,
  TurnWriter,
  WriteOutcome,
} from '../../src/domain/chat/turns.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import { eachDatabase, optionsFor, silent } from '../support/databases.ts';
import { findMariadbd, startMariadb } from '../support/mariadb.ts';
import { contents, newId, onStatement, replyTo, startOf, userMessage } from './fixtures.ts';

const MANY_BYTES = 100_000_000;
const AWAY = { code: 'database_unavailable' };
const KEY: KeyClaim = {
  id: 'a'.repeat(64),
  bodyHash: 'b'.repeat(64),
  cached: false,
  replaces: null,
  expiredBefore: 0,
};
const NEVER = 60_000;

/** A database of messages that fails and recovers on demand. */
class FakeDatabase implements TurnWriter {
  /** `lost`: it commits and then breaks. */
  mode: 'up' | 'down' | 'lost' = 'up';
  readonly asked: TurnWrite[] = [];
  readonly messages = new Map<string, Message>();
  /** Conversations whose rows are refused. */
  readonly bad = new Set<string>();
  /** What a write waits for before it is decided. */
  gate: Promise<void> = Promise.resolve();

  async write(unit: TurnWrite): Promise<WriteOutcome> {
    if (unit.start || unit.reply) this.asked.push(unit);
    await this.gate;
    const { start, reply } = unit;
    if (this.mode === 'down') throw databaseUnavailable(undefined);
    if (start?.answers !== undefined && !this.messages.has(start.answers)) return 'gone';
    if (start && this.bad.has(start.conversationId))
      throw Object.assign(new Error('secret'), { code: 'ER_BAD' });
    const outcome = this.#store(start?.message, reply);
    if (this.mode === 'lost') throw databaseUnavailable(undefined);
    return outcome;
  }

  async progress() {
    if (this.mode !== 'up') throw databaseUnavailable(undefined);
    return 'saved' as const;
  }

  async idle() {}

  texts(conversationId: string): string[] {
    return [...this.messages.values()]
      .filter((message) => message.conversationId === conversationId)
      .map(({ content }) => content);
  }

  #store(question: Message | undefined, reply: Message | undefined): WriteOutcome {
    if (question && !this.messages.has(question.uid)) this.messages.set(question.uid, question);
    if (!reply) return 'saved';
    if (!this.messages.has(reply.replyTo ?? '')) return 'gone';
    const known = this.messages.get(reply.uid);
    if (!known || known.status === 'streaming') this.messages.set(reply.uid, reply);
    return 'saved';
  }
}

type Line = Readonly<Record<string, unknown>>;

function recorder(): { logger: Logger; lines: Line[] } {
  const lines: Line[] = [];
  return {
    logger: pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) }),
    lines,
  };
}

const ofLevel = (lines: readonly Line[], level: number) => lines.filter((line) => line.level === level);
const [INFO, WARN, ERROR] = [30, 40, 50];

/** A journal of the test's own with writers on it, as the processes of a host have them. */
function host(t: TestContext, maxBytes = MANY_BYTES) {
  const folder = mkdtempSync(join(tmpdir(), 'chat-durable-'));
  const path = join(folder, 'journal.sqlite');
  const writers: DurableWriter[] = [];
  const journals: Journal[] = [];
  t.after(async () => {
    await Promise.all(writers.map((writer) => writer.close()));
    for (const journal of journals) await journal.close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  return {
    path,
    /** Another process of the host, that only has the journal. */
    journal() {
      const journal = new Journal(path, maxBytes);
      journals.push(journal);
      return journal;
    },
    writer(inner: TurnWriter, options: DurableOptions = {}, logger: Logger = silent) {
      const writer = new DurableWriter(inner, new Journal(path, maxBytes), logger, {
        retryMs: 10,
        ...options,
      });
      writers.push(writer);
      return writer;
    },
  };
}

const begin = (question: Message): TurnWrite => ({ start: startOf(question, { named: false }) });
const end = (question: Message): TurnWrite => ({
  reply: replyTo(question, { content: `re: ${question.content}` }),
});

/** A checkpoint of a reply. */
const grown = (uid: string): ReplyProgress => ({
  uid,
  worker: newId(),
  reasoningAfter: () => '',
  after: () => '',
});

/** Nobody else of the host replays until the returned function is called. */
async function heldReplay(journal: Journal): Promise<() => Promise<unknown>> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const held = journal.exclusively(() => promise);
  return () => {
    resolve();
    return held;
  };
}

describe('while the database is available', () => {
  test('every unit goes to it, and its outcome comes back', async (t) => {
    const inner = new FakeDatabase();
    const writer = host(t).writer(inner);
    const question = userMessage(newId());
    assert.equal(await writer.write(begin(question)), 'saved');
    assert.equal(await writer.write(end(question)), 'saved');
    assert.equal(await writer.write(end(userMessage(newId()))), 'gone');
    assert.equal(await writer.progress(grown(newId())), 'saved');
    assert.deepEqual(writer.state(), { turns: 0, bytes: 0, oldest: null });
    assert.equal(inner.asked.length, 3);
  });

  test('the error of a bad row is passed on, and does not mark the database as down', async (t) => {
    const inner = new FakeDatabase();
    const writer = host(t).writer(inner);
    const question = userMessage(newId());
    inner.bad.add(question.conversationId);
    await assert.rejects(writer.write(begin(question)), { code: 'ER_BAD' });
    assert.equal(await writer.write(begin(userMessage(newId()))), 'saved');
    assert.equal(writer.state().turns, 0);
  });
});

describe('while the database is unavailable', () => {
  test('turns are journalled, and only the first one tries the database', async (t) => {
    const inner = new FakeDatabase();
    inner.mode = 'down';
    const { logger, lines } = recorder();
    const writer = host(t).writer(inner, { retryMs: NEVER }, logger);
    const question = userMessage(newId());
    assert.equal(await writer.write(begin(question)), 'journalled');
    assert.equal(await writer.write(end(question)), 'journalled');
    assert.equal(await writer.write(begin(userMessage(newId()))), 'journalled');
    assert.equal(inner.asked.length, 1);
    assert.equal(writer.state().turns, 3);
    assert.equal(writer.has(question.conversationId), true);
    assert.deepEqual(
      writer.conversation(question.conversationId)?.messages.map(({ content }) => content),
      ['a question', 're: a question'],
    );
    assert.equal(ofLevel(lines, WARN).length, 1);
  });

  test('a turn with a key fails, and the end of its reply is journalled', async (t) => {
    const inner = new FakeDatabase();
    const writer = host(t).writer(inner, { retryMs: NEVER });
    const question = userMessage(newId());
    const begun = { ...replyTo(question), status: 'streaming' as const };
    assert.equal(await writer.write({ ...begin(question), reply: begun, key: KEY }), 'saved');
    inner.mode = 'down';
    const other = userMessage(newId());
    await assert.rejects(writer.write({ ...begin(other), key: KEY }), AWAY);
    await assert.rejects(writer.write({ ...begin(other), key: KEY }), AWAY);
    await assert.rejects(writer.write({ reply: { ...begun, uid: newId() }, key: KEY }), AWAY);
    assert.equal(inner.asked.length, 2, 'the second is not tried');
    assert.equal(writer.state().turns, 0);
    assert.equal(await writer.write(end(question)), 'journalled');
  });

  test('checkpoints fail immediately', async (t) => {
    const inner = new FakeDatabase();
    inner.mode = 'down';
    const writer = host(t).writer(inner, { retryMs: NEVER });
    await assert.rejects(writer.progress(grown(newId())), AWAY);
    inner.mode = 'up';
    assert.equal(await writer.write(begin(userMessage(newId()))), 'saved', 'a checkpoint says nothing of it');
    inner.mode = 'down';
    await writer.write(begin(userMessage(newId())));
    inner.mode = 'up';
    await assert.rejects(writer.progress(grown(newId())), AWAY);
  });

  test('a full journal rejects new turns', async (t) => {
    const inner = new FakeDatabase();
    inner.mode = 'down';
    const writer = host(t, 1).writer(inner, { retryMs: NEVER });
    const question = userMessage(newId());
    await writer.write(begin(question));
    await assert.rejects(writer.write(begin(userMessage(newId()))), {
      ...AWAY,
      message: /full/,
      retryAfter: 2,
    });
    assert.equal(await writer.write(end(question)), 'journalled');
  });

  test('it is probed even when the journal is empty', async (t) => {
    const inner = new FakeDatabase();
    inner.mode = 'down';
    const { logger, lines } = recorder();
    const writer = host(t).writer(inner, {}, logger);
    await assert.rejects(writer.write({ ...begin(userMessage(newId())), key: KEY }), AWAY);
    inner.mode = 'up';
    const question = userMessage(newId());
    const again = (): Promise<WriteOutcome> =>
      writer.write({ ...begin(question), key: KEY }).catch(() => delay(5).then(again));
    assert.equal(await again(), 'saved');
    assert.match(String(ofLevel(lines, INFO)[0]?.msg), /available again/);
  });

  test('nothing is replayed before the probe succeeds', async (t) => {
    const inner = new FakeDatabase();
    let tables = false;
    let probes = 0;
    const { promise: second, resolve } = Promise.withResolvers<void>();
    const probe = async () => {
      probes += 1;
      if (probes === 2) resolve();
      if (!tables) throw new Error('no tables yet');
    };
    const here = host(t);
    await here.journal().append(begin(userMessage(newId())));
    const writer = here.writer(inner, { probe });
    await second;
    assert.equal(inner.asked.length, 0);
    tables = true;
    await writer.flush(5000);
    assert.equal(inner.asked.length, 1);
  });
});

describe('the order within a conversation', () => {
  test('is kept when the end arrives while the start fails', async (t) => {
    const inner = new FakeDatabase();
    const writer = host(t).writer(inner, { retryMs: NEVER });
    const question = userMessage(newId());
    const { promise, resolve } = Promise.withResolvers<void>();
    inner.gate = promise;
    inner.mode = 'down';
    const outcomes = [begin(question), end(question), begin({ ...question, uid: newId() })].map((unit) =>
      // The database is back the moment it has failed the first: what follows must not slip in.
      writer.write(unit).finally(() => {
        inner.mode = 'up';
      }),
    );
    resolve();
    assert.deepEqual(await Promise.all(outcomes), ['journalled', 'journalled', 'journalled']);
    assert.equal(inner.asked.length, 1);
    await writer.flush(5000);
    assert.deepEqual(inner.texts(question.conversationId), ['a question', 're: a question', 'a question']);
  });

  test('is kept behind journalled turns, while other conversations go straight to the database', async (t) => {
    const inner = new FakeDatabase();
    const here = host(t);
    const other = here.journal();
    const release = await heldReplay(other);
    const question = userMessage(newId());
    await other.append(begin(question));
    const writer = here.writer(inner);
    assert.equal(await writer.write(end(question)), 'journalled');
    const again = { ...question, uid: newId() };
    await assert.rejects(writer.write({ start: startOf(again), key: KEY }), AWAY);
    assert.equal(await writer.write(begin(userMessage(newId()))), 'saved');
    await release();
    await writer.flush(5000);
    assert.deepEqual(inner.texts(question.conversationId), ['a question', 're: a question']);
    assert.equal(await writer.write(begin({ ...question, uid: newId() })), 'saved');
  });

  test('makes a checkpoint wait for the start of its reply', async (t) => {
    const inner = new FakeDatabase();
    const here = host(t);
    const release = await heldReplay(here.journal());
    const writer = here.writer(inner);
    const question = userMessage(newId());
    const reply = replyTo(question, { status: 'streaming' });
    inner.mode = 'down';
    await writer.write({ ...begin(question), reply });
    inner.mode = 'up';
    while ((await writer.write(begin(userMessage(newId())))) !== 'saved') await delay(5);
    await assert.rejects(writer.progress(grown(reply.uid)), AWAY);
    await release();
    await writer.flush(5000);
    assert.equal(await writer.progress(grown(reply.uid)), 'saved');
  });
});

describe('the replay', () => {
  test('writes journalled turns in order, once, and logs their number', async (t) => {
    const inner = new FakeDatabase();
    inner.mode = 'down';
    const { logger, lines } = recorder();
    const writer = host(t).writer(inner, {}, logger);
    const questions = Array.from({ length: 150 }, (_, n) => userMessage(newId(), { content: `${n}` }));
    const units = [...questions.map(begin), ...questions.map(end)];
    await Promise.all(units.map((unit) => writer.write(unit)));
    const before = inner.asked.length;
    inner.mode = 'up';
    await writer.flush(5000);
    assert.deepEqual(
      inner.asked.slice(before),
      units.map((unit) => ({ ...unit, replayed: true })),
    );
    assert.equal(inner.messages.size, 300);
    await writer.close();
    const told = ofLevel(lines, INFO).find(({ msg }) => /replayed/.test(String(msg)));
    assert.equal(told?.turns, 300);
    assert.equal(ofLevel(lines, WARN).length, 1);
  });

  test('removes turns whatever their outcome: deleted ones are not retried for ever', async (t) => {
    const here = host(t);
    await here.journal().append(end(userMessage(newId())));
    await here.writer(new FakeDatabase()).flush(5000);
  });

  test('starts by itself with turns that another process left, or leaves later', async (t) => {
    const here = host(t);
    const other = here.journal();
    const questions = [userMessage(newId()), userMessage(newId())] as const;
    await other.append(begin(questions[0]));
    const inner = new FakeDatabase();
    const writer = here.writer(inner);
    for (const question of questions) {
      if (question === questions[1]) await other.append(begin(question));
      while (!inner.messages.has(question.uid)) await delay(5);
    }
    await writer.flush(5000);
  });

  test('keeps the end of a reply whose start it could not write', async (t) => {
    const inner = new FakeDatabase();
    const here = host(t);
    const question = userMessage(newId());
    const other = here.journal();
    for (const unit of [begin(question), end(question)]) await other.append(unit);
    let first = true;
    // The database is away for the first of the batch and back for the second, which it then knows nothing of.
    const flickering: TurnWriter = {
      write: async (unit) => {
        if (!unit.start || !first) return inner.write(unit);
        first = false;
        throw databaseUnavailable(undefined);
      },
      progress: () => inner.progress(),
      idle: () => inner.idle(),
    };
    await here.writer(flickering).flush(5000);
    assert.deepEqual(inner.texts(question.conversationId), ['a question', 're: a question']);
  });

  test('moves a turn aside that the database rejects, with the turns that depend on it', async (t) => {
    const inner = new FakeDatabase();
    const here = host(t);
    const other = here.journal();
    const [bad, good] = [userMessage(newId(), { content: 'private' }), userMessage(newId())];
    inner.bad.add(bad.conversationId);
    for (const unit of [begin(bad), begin(good), end(bad), end(good)]) await other.append(unit);
    const { logger, lines } = recorder();
    await here.writer(inner, {}, logger).flush(5000);
    assert.deepEqual(inner.texts(good.conversationId), ['a question', 're: a question']);
    assert.deepEqual(inner.texts(bad.conversationId), []);
    const file = new Sqlite(here.path);
    t.after(() => file.close());
    const reasons = file.prepare('SELECT question_uid, reason FROM rejected ORDER BY seq').all();
    assert.deepEqual(reasons, [
      { question_uid: bad.uid, reason: 'ER_BAD' },
      { question_uid: bad.uid, reason: 'orphaned' },
    ]);
    const errors = ofLevel(lines, ERROR);
    assert.equal(errors.length, 2);
    assert.equal(errors[0]?.conversation_id, bad.conversationId);
    assert.equal(errors[0]?.uid, bad.uid);
    assert.doesNotMatch(JSON.stringify(lines), /private|secret/);
  });

  test('moves results of tools aside whose call was rejected', async (t) => {
    const inner = new FakeDatabase();
    const here = host(t);
    const other = here.journal();
    const bad = userMessage(newId());
    const results = userMessage(bad.conversationId, { role: 'tool' });
    inner.bad.add(bad.conversationId);
    const reply = replyTo(bad);
    const answered = { start: startOf(results, { answers: reply.uid }) };
    for (const unit of [{ ...begin(bad), reply }, answered, end(results)]) await other.append(unit);
    await here.writer(inner).flush(5000);
    const file = new Sqlite(here.path);
    t.after(() => file.close());
    assert.deepEqual(file.prepare('SELECT question_uid, reason FROM rejected ORDER BY seq').all(), [
      { question_uid: bad.uid, reason: 'ER_BAD' },
      { question_uid: results.uid, reason: 'orphaned' },
      { question_uid: results.uid, reason: 'orphaned' },
    ]);
  });

  test('retries a rejected turn once alone', async (t) => {
    const inner = new FakeDatabase();
    const here = host(t);
    const question = userMessage(newId());
    const other = here.journal();
    for (const unit of [begin(question), end(question)]) await other.append(unit);
    inner.bad.add(question.conversationId);
    const once: TurnWriter = {
      write: (unit) => inner.write(unit).finally(() => unit.start && inner.bad.clear()),
      progress: () => inner.progress(),
      idle: () => inner.idle(),
    };
    await here.writer(once).flush(5000);
    assert.deepEqual(inner.texts(question.conversationId), ['a question', 're: a question']);
  });

  test('moves unreadable entries aside', async (t) => {
    const inner = new FakeDatabase();
    const here = host(t);
    const other = here.journal();
    const [first, second] = [userMessage(newId()), userMessage(newId())];
    for (const question of [first, second]) await other.append(begin(question));
    const file = new Sqlite(here.path);
    t.after(() => file.close());
    file.prepare(`UPDATE entries SET body = '{"start' WHERE question_uid = ?`).run(first.uid);
    await here.writer(inner).flush(5000);
    assert.deepEqual([...inner.messages.keys()], [second.uid]);
    assert.deepEqual(file.prepare('SELECT body, reason FROM rejected').all(), [
      { body: '{"start', reason: 'unreadable' },
    ]);
  });

  test('survives a journal that cannot be written, and logs it once', async (t) => {
    const inner = new FakeDatabase();
    const here = host(t);
    await here.journal().append(begin(userMessage(newId())));
    const file = new Sqlite(here.path);
    t.after(() => file.close());
    file.exec(`CREATE TRIGGER stuck BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'no'); END`);
    const { logger, lines } = recorder();
    const writer = here.writer(inner, {}, logger);
    while (inner.asked.length < 3) await delay(5);
    assert.equal(ofLevel(lines, ERROR).length, 1);
    file.exec('DROP TRIGGER stuck');
    await writer.flush(5000);
    assert.equal(inner.messages.size, 1);
  });
});

describe('waiting and ending', () => {
  test('drained() fails at its timeout, and resolves immediately when the journal is empty', async (t) => {
    const inner = new FakeDatabase();
    inner.mode = 'down';
    const writer = host(t).writer(inner);
    await writer.flush(0);
    await writer.write(begin(userMessage(newId())));
    await assert.rejects(writer.flush(30), AWAY);
    inner.mode = 'up';
    await writer.flush(5000);
    assert.equal(writer.state().turns, 0);
  });

  test('idle() waits until everything is in the database or in the journal', async (t) => {
    const inner = new FakeDatabase();
    const writer = host(t).writer(inner, { retryMs: NEVER });
    const question = userMessage(newId());
    const { promise, resolve } = Promise.withResolvers<void>();
    inner.gate = promise;
    inner.mode = 'down';
    const outcomes: unknown[] = [];
    for (const unit of [begin(question), end(question)]) {
      void writer.write(unit).then((outcome) => outcomes.push(outcome));
    }
    setImmediate(resolve);
    await writer.idle();
    await Promise.resolve();
    assert.deepEqual(outcomes, ['journalled', 'journalled']);
  });

  test('close() leaves journalled turns for the next start, and accepts nothing afterwards', async (t) => {
    const inner = new FakeDatabase();
    inner.mode = 'down';
    const here = host(t);
    const writer = here.writer(inner);
    const question = userMessage(newId());
    const written = writer.write(begin(question));
    await writer.close();
    assert.equal(await written, 'journalled');
    await assert.rejects(writer.write(end(question)), AWAY);
    inner.mode = 'up';
    const next = here.writer(inner);
    await next.flush(5000);
    assert.deepEqual([...inner.messages.keys()], [question.uid]);
  });

  test('drop() removes the turns of a deleted conversation', async (t) => {
    const inner = new FakeDatabase();
    inner.mode = 'down';
    const writer = host(t).writer(inner, { retryMs: NEVER });
    const [deleted, kept] = [userMessage(newId()), userMessage(newId())];
    for (const question of [deleted, kept]) await writer.write(begin(question));
    assert.equal(await writer.drop(deleted.conversationId), 1);
    inner.mode = 'up';
    await writer.flush(5000);
    assert.deepEqual([...inner.messages.keys()], [kept.uid]);
  });
});

test('whatever happens to the database, every turn is stored once and in order', async (t) => {
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ turn: fc.nat(2) }) },
    { weight: 3, arbitrary: fc.constantFrom('up', 'down', 'lost') },
    { weight: 3, arbitrary: fc.constantFrom('wait', 'tick') },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const inner = new FakeDatabase();
      const writer = host(t).writer(inner, { retryMs: 1 });
      const said = new Map<string, string[]>();
      const ids = [newId(), newId(), newId()];
      const outcomes: Promise<WriteOutcome>[] = [];
      for (const [index, each] of steps.entries()) {
        if (each === 'wait') await Promise.all(outcomes);
        else if (each === 'tick') await delay(2);
        else if (typeof each === 'string') inner.mode = each;
        else {
          const id = ids[each.turn] ?? '';
          const question = userMessage(id, { content: `${index}` });
          said.set(id, [...(said.get(id) ?? []), `${index}`, `re: ${index}`]);
          outcomes.push(writer.write(begin(question)), writer.write(end(question)));
        }
      }
      const all = await Promise.all(outcomes);
      assert(all.every((outcome) => outcome === 'saved' || outcome === 'journalled'));
      inner.mode = 'up';
      await writer.flush(5000);
      for (const [id, texts] of said) assert.deepEqual(inner.texts(id), texts);
      await writer.close();
    }),
    { numRuns: 60 },
  );
});

/** A real writer that the test takes away from the program. */
class Gate implements TurnWriter {
  mode: 'up' | 'down' | 'lost' = 'up';
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async write(unit: TurnWrite): Promise<WriteOutcome> {
    if (this.mode === 'down') throw databaseUnavailable(undefined);
    const outcome = await this.#database.writer.write(unit);
    if (this.mode === 'lost') throw databaseUnavailable(undefined);
    return outcome;
  }

  async progress() {
    return 'saved' as const;
  }

  idle() {
    return this.#database.writer.idle();
  }
}

eachDatabase((_name, open) => {
  test('a commit without a response is repeated and changes nothing', async (t) => {
    const database = open();
    const gate = new Gate(database);
    const writer = host(t).writer(gate);
    const question = userMessage(newId());
    gate.mode = 'lost';
    assert.equal(await writer.write(begin(question)), 'journalled');
    assert.equal(await writer.write(end(question)), 'journalled');
    gate.mode = 'up';
    await writer.flush(5000);
    const texts = await contents(database.conversations, question.conversationId);
    assert.deepEqual(texts, ['a question', 're: a question']);
  });

  test('a crash between the commit and the journal repeats the write and changes nothing', async (t) => {
    const database = open();
    const here = host(t);
    const journal = here.journal();
    const question = userMessage(newId());
    const begun = replyTo(question, { status: 'streaming', content: '' });
    const ended = { ...begun, status: 'complete' as const, content: 'all of it' };
    const units = [{ ...begin(question), reply: begun }, { reply: ended }];
    for (const unit of units) await journal.append(unit);
    for (const unit of units) await database.writer.write({ ...unit, replayed: true });
    await here.writer(database.writer).flush(5000);
    const texts = await contents(database.conversations, question.conversationId);
    assert.deepEqual(texts, ['a question', 'all of it']);
  });

  test('500 turns with separate start and end are replayed together', async (t) => {
    const database = open();
    const gate = new Gate(database);
    gate.mode = 'down';
    const writer = host(t).writer(gate, { retryMs: NEVER });
    const answer = { content: 'y'.repeat(800) };
    const turns = Array.from({ length: 500 }, () => {
      const question = userMessage(newId(), { content: 'x'.repeat(200) });
      const reply = replyTo(question, answer);
      const begun = { ...reply, status: 'streaming' as const, content: '' };
      return [{ ...begin(question), reply: begun }, { reply }];
    });
    const written = await Promise.all(turns.flat().map((unit) => writer.write(unit)));
    assert(written.every((outcome) => outcome === 'journalled'));
    gate.mode = 'up';
    let statements = 0;
    onStatement(database.knex, () => {
      statements += 1;
    });
    await writer.flush(60_000);
    const [row] = await database.knex('messages').where(answer).count({ count: '*' });
    assert.equal(Number(row?.count), 500);
    // A transaction for each unit needs three at least.
    assert(statements > 0 && statements < 1000, `${statements} statements for 1000 units`);
  });
});

if (findMariadbd()) {
  test('turns of a time without MariaDB are in it, once and in order, when it is back', {
    timeout: 110_000,
  }, async (t) => {
    const server = await startMariadb();
    t.after(() => server.stop());
    const connection = await mysql.createConnection(server.url);
    await connection.query('CREATE DATABASE chat');
    await connection.end();
    const url = `${server.url}/chat`;
    const database = openDatabase({ ...optionsFor({ kind: 'mysql', url }), acquireTimeoutMs: 1000 }, silent);
    t.after(() => database.close());
    await database.migrate();
    const writer = host(t).writer(database.writer, {
      retryMs: 100,
      probe: () => database.conversations.check(),
    });

    const ids = [newId(), newId(), newId()];
    const said: string[] = [];
    const talk = async (name: string, expected: readonly WriteOutcome[]): Promise<void> => {
      said.push(`${name}`, `re: ${name}`);
      const turns = ids.flatMap((id) => {
        const question = userMessage(id, { content: name });
        return [writer.write({ start: startOf(question) }), writer.write(end(question))];
      });
      for (const outcome of await Promise.all(turns))
        assert(expected.includes(outcome), `${name}: ${outcome}`);
    };
    await talk('before', ['saved']);
    await server.kill();
    for (let n = 0; n < 20; n += 1) await talk(`dead ${n}`, ['journalled']);
    await assert.rejects(writer.flush(100), AWAY);
    await server.start();
    await talk('just back', ['journalled', 'saved']);
    await writer.flush(20_000);
    await talk('after', ['saved']);
    for (const id of ids) assert.deepEqual(await contents(database.conversations, id), said);
  });
}
