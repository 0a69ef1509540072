import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import type { Knex } from 'knex';
import { dialectOf } from '../../src/db/core/dialect.ts';
import { Reads } from '../../src/db/turns/batch-reads.ts';
import { type Access, UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { KeyClaim, ReplyProgress, TurnWrite, TurnWriter } from '../../src/domain/chat/turns.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import { eachDatabase } from '../support/databases.ts';
import { insertRows } from '../support/export-data.ts';
import { ticksDuring } from '../support/ticks.ts';
import { contents, HOUR, messagesOf, NOON, newId, replyTo, startOf, userMessage } from './fixtures.ts';

const WORKER = newId();
const BOB: Access = { owner: 'bob', unrestricted: false };
const STREAMING = { content: '', status: 'streaming', finishReason: null, usage: null } as const;

interface Turn {
  readonly question: Message;
  readonly reply: Message;
}

/** A conversation of `q1 a1 q2 a2`… */
async function conversationOf(writer: TurnWriter, turns: number, id = newId()): Promise<Turn[]> {
  const written: Turn[] = [];
  for (let n = 1; n <= turns; n++) {
    const question = userMessage(id, { content: `q${n}` });
    const reply = replyTo(question, { content: `a${n}` });
    assert.equal(await writer.write({ start: startOf(question), reply }), 'saved');
    written.push({ question, reply });
  }
  return written;
}

/** The start of another reply to the question. */
function regenerate(question: Message, over: Partial<TurnWrite> = {}): TurnWrite & { reply: Message } {
  const reply = replyTo(question, { ...STREAMING, details: { supersedes: question.uid } });
  const revision = { by: UNRESTRICTED, expiredBefore: NOON - 24 * HOUR, message: undefined };
  return { revision, reply, worker: WORKER, ...over };
}

/** The start of a turn with an edited question. */
function edit(question: Message, content: string): TurnWrite & { reply: Message } {
  const message = userMessage(question.conversationId, { content });
  const reply = replyTo(message, { ...STREAMING, details: { supersedes: question.uid } });
  return {
    revision: { by: UNRESTRICTED, expiredBefore: NOON - 24 * HOUR, message },
    reply,
    worker: WORKER,
  };
}

function saying({ uid, details }: Message, text: string): ReplyProgress {
  return {
    uid,
    supersedes: details?.supersedes,
    worker: WORKER,
    reasoningAfter: () => '',
    after: (length) => text.slice(length),
  };
}

function endOf(reply: Message, over: Partial<Message> = {}): TurnWrite {
  return {
    reply: { ...reply, content: 'new', status: 'complete', finishReason: 'stop', ...over },
    worker: WORKER,
  };
}

async function statuses(knex: Knex, conversationId: string): Promise<string[]> {
  const rows = await knex('messages').where({ conversation_id: conversationId }).orderBy('id');
  return rows.map(({ content, status }) => `${content} ${status}`);
}

const [first, second] = [0, 1] as const;
function at(turns: readonly Turn[], index: number): Turn {
  const turn = turns[index];
  assert.ok(turn);
  return turn;
}

const WAYS: readonly [name: string, write: (writer: TurnWriter, reply: Message) => Promise<unknown>][] = [
  ['its first text', (writer, reply) => writer.progress(saying(reply, 'new'))],
  ['its end', (writer, reply) => writer.write(endOf(reply))],
  [
    'its end, cancelled without text',
    (writer, reply) =>
      writer.write(endOf(reply, { content: '', status: 'cancelled', finishReason: 'cancelled' })),
  ],
];

eachDatabase((_name, open) => {
  for (const [name, write] of WAYS) {
    test(`everything stays visible until the new reply has ${name}`, async () => {
      const { writer, conversations, knex } = open();
      for (const { begin, visible, superseded } of [
        {
          begin: ([, turn]: Turn[]) => turn && regenerate(turn.question),
          visible: ['q1', 'a1', 'q2', 'NEW'],
          superseded: ['a2', 'q3', 'a3'],
        },
        {
          begin: ([, turn]: Turn[]) => turn && edit(turn.question, 'edited'),
          visible: ['q1', 'a1', 'edited', 'NEW'],
          superseded: ['q2', 'a2', 'q3', 'a3'],
        },
      ]) {
        const turns = await conversationOf(writer, 3);
        const { conversationId } = at(turns, first).question;
        const unit = begin(turns);
        assert.ok(unit);
        assert.equal(await writer.write(unit), 'saved');
        const before = ['q1', 'a1', 'q2', 'a2', 'q3', 'a3'];
        assert.deepEqual(await contents(conversations, conversationId), before);
        assert.equal(await writer.write(unit), 'saved', 'a repeated start');
        await write(writer, unit.reply);
        await write(writer, unit.reply);
        const text = name.includes('without') ? '' : 'new';
        const expected = visible.map((content) => (content === 'NEW' ? text : content));
        assert.deepEqual(await contents(conversations, conversationId), expected);
        const rows = await statuses(knex, conversationId);
        assert.deepEqual(
          rows.filter((row) => row.endsWith(' superseded')),
          superseded.map((content) => `${content} superseded`),
        );
        const history = (await conversations.context(conversationId, UNRESTRICTED, 10, 0)).messages;
        assert.ok(history.every(({ content }) => !superseded.includes(content)));
      }
    });
  }

  describe('a revision that fails before its first text', () => {
    test('leaves everything visible, and another one can begin', async () => {
      const { writer, conversations } = open();
      const [turn] = await conversationOf(writer, 1);
      assert.ok(turn);
      const { conversationId } = turn.question;
      for (const unit of [regenerate(turn.question), edit(turn.question, 'edited')]) {
        assert.equal(await writer.write(unit), 'saved');
        const failed = endOf(unit.reply, { content: '', status: 'incomplete', finishReason: 'error' });
        assert.equal(await writer.write(failed), 'saved');
        assert.deepEqual(await contents(conversations, conversationId), ['q1', 'a1']);
      }
      const again = regenerate(turn.question);
      assert.equal(await writer.write(again), 'saved');
      await writer.write(endOf(again.reply));
      assert.deepEqual(await contents(conversations, conversationId), ['q1', 'new']);
    });

    test('because its process died is found as failed; its end from a journal still takes its place', async () => {
      const { writer, conversations, replies, knex } = open();
      const [turn] = await conversationOf(writer, 1);
      assert.ok(turn);
      const { conversationId } = turn.question;
      const unit = edit(turn.question, 'edited');
      await writer.write(unit);
      assert.equal((await replies.find(unit.reply.uid))?.message.status, 'streaming');
      await knex('messages').where({ worker: WORKER }).update({ worker: null });
      const found = await replies.find(unit.reply.uid);
      assert.deepEqual([found?.message.status, found?.message.finishReason], ['incomplete', 'error']);
      assert.equal(await writer.progress(saying(unit.reply, 'n')), 'saved');
      assert.deepEqual(await contents(conversations, conversationId), ['q1', 'a1']);
      assert.equal(await writer.write({ ...endOf(unit.reply), replayed: true }), 'saved');
      assert.deepEqual(await contents(conversations, conversationId), ['edited', 'new']);
    });

    test('and whose place another one has taken stays superseded with its text', async () => {
      const { writer, conversations, replies, knex } = open();
      const [turn] = await conversationOf(writer, 1);
      assert.ok(turn);
      const { conversationId } = turn.question;
      const late = edit(turn.question, 'late');
      await writer.write(late);
      await knex('messages').where({ worker: WORKER }).update({ worker: null });
      const unit = edit(turn.question, 'edited');
      assert.equal(await writer.write(unit), 'saved');
      await writer.write(endOf(unit.reply));
      assert.equal(
        await writer.write({ ...endOf(late.reply, { content: 'too late' }), replayed: true }),
        'saved',
      );
      assert.deepEqual(await contents(conversations, conversationId), ['edited', 'new']);
      const found = await replies.find(late.reply.uid);
      assert.deepEqual([found?.message.content, found?.message.status], ['too late', 'complete']);
    });
  });

  test('a revision is refused for a message that it cannot take the place of', async () => {
    const { writer, conversations } = open();
    const turns = await conversationOf(writer, 2);
    const other = at(await conversationOf(writer, 1), first);
    const { question } = at(turns, first);
    const { conversationId } = question;
    const unit = regenerate(question);
    const named = (supersedes: string) => ({
      ...unit,
      reply: { ...unit.reply, uid: newId(), details: { supersedes } },
    });
    const by = { by: BOB, message: undefined };
    for (const [refused, outcome] of [
      [named(newId()), 'missing'],
      [named(other.question.uid), 'missing'],
      [
        {
          ...unit,
          revision: { ...by, expiredBefore: 0, by: UNRESTRICTED },
          reply: { ...unit.reply, conversationId: newId() },
        },
        'gone',
      ],
      [{ ...unit, revision: { ...by, expiredBefore: NOON + HOUR, by: UNRESTRICTED } }, 'gone'],
    ] as const) {
      assert.equal(await writer.write(refused), outcome);
    }
    const theirs = userMessage(newId());
    const alice: Access = { owner: 'alice', unrestricted: false };
    await writer.write({ start: startOf(theirs, { by: alice }), reply: replyTo(theirs) });
    const foreign = regenerate(theirs, { revision: { ...by, expiredBefore: 0 } });
    assert.equal(await writer.write(foreign), 'gone');
    assert.equal(await writer.write(unit), 'saved');
    assert.equal(await writer.write(regenerate(at(turns, second).question)), 'busy');
    await writer.write(endOf(unit.reply));
    assert.equal(await writer.write(edit(at(turns, second).question, 'x')), 'superseded');
    assert.deepEqual(await contents(conversations, conversationId), ['q1', 'new']);
  });

  test('a conversation is busy while a plain reply is streaming, and free after its end', async () => {
    const { writer } = open();
    const [turn] = await conversationOf(writer, 1);
    assert.ok(turn);
    const next = userMessage(turn.question.conversationId, { content: 'q2' });
    const reply = replyTo(next, STREAMING);
    await writer.write({ start: startOf(next), reply, worker: WORKER });
    assert.equal(await writer.write(regenerate(turn.question)), 'busy');
    await writer.write(endOf(reply));
    assert.equal(await writer.write(regenerate(turn.question)), 'saved');
  });

  test('whether a conversation is busy is read from the running replies only', async () => {
    const { writer, knex } = open();
    const [turn] = await conversationOf(writer, 50);
    assert(turn);
    const dialect = dialectOf(knex);
    const { statements } = new Reads(dialect, { turns: [regenerate(turn.question)], progress: [] });
    const busy = statements.find(({ sql }) => /worker IS NOT NULL/.test(sql));
    assert(busy);
    const explain = dialect.pooled ? 'EXPLAIN FORMAT=TRADITIONAL' : 'EXPLAIN QUERY PLAN';
    const bindings = busy.bindings.filter((value) => value !== null);
    const plan = await dialect.select<object>(knex, `${explain} ${busy.sql}`, bindings);
    assert.match(JSON.stringify(plan), /"key":"messages_worker|INDEX messages_worker/);
  });

  test('many superseded messages block the event loop neither for a page nor for a rating', async () => {
    const { conversations, writer, knex } = open();
    const [turn] = await conversationOf(writer, 1);
    assert(turn);
    const { conversationId } = turn.question;
    const time = '2024-03-21 12:00:00.000';
    const rows = Array.from({ length: 8000 }, (_, at) => ({
      ...{ uid: newId(), conversation_id: conversationId, seq: 3 + at, role: 'user', content: '' },
      ...{ status: 'superseded', timestamp: time, updated_at: time },
    }));
    await insertRows(knex, 'messages', rows);
    const last = { last_seq: 2 + rows.length };
    await knex('conversations').where({ id: conversationId }).update(last);
    const page = await ticksDuring(async () =>
      assert.equal((await messagesOf(conversations, conversationId, 0, 10)).length, 2),
    );
    const rating = await ticksDuring(async () =>
      assert(await conversations.rate(turn.reply.uid, { rating: 'up', comment: null })),
    );
    assert.ok(page.count > 50, `${page.count} turns`);
    assert.ok(rating.count > 4, `${rating.count} turns`);
  });

  test('of revisions at the same time through several processes one wins', async () => {
    const databases = Array.from({ length: 4 }, () => open());
    const [{ writer, conversations }] = databases as [(typeof databases)[0]];
    const [turn] = await conversationOf(writer, 1);
    assert.ok(turn);
    const units = Array.from({ length: 40 }, (_, index) =>
      index % 2 ? regenerate(turn.question) : edit(turn.question, `edited ${index}`),
    );
    const outcomes = await Promise.all(
      units.map((unit, index) => databases[index % databases.length]?.writer.write(unit)),
    );
    assert.deepEqual(
      outcomes.filter((outcome) => outcome !== 'busy'),
      ['saved'],
    );
    const won = units[outcomes.indexOf('saved')];
    assert.ok(won);
    assert.deepEqual(await contents(conversations, turn.question.conversationId), ['q1', 'a1']);
    await writer.write(endOf(won.reply));
    const question = won.revision?.message?.content ?? 'q1';
    assert.deepEqual(await contents(conversations, turn.question.conversationId), [question, 'new']);
  });

  test('a turn that began after the revision stays visible', async () => {
    const { writer, conversations } = open();
    const [turn] = await conversationOf(writer, 1);
    assert.ok(turn);
    const unit = regenerate(turn.question);
    await writer.write(unit);
    await conversationOf(writer, 1, turn.question.conversationId);
    await writer.progress(saying(unit.reply, 'new'));
    assert.deepEqual(await contents(conversations, turn.question.conversationId), ['q1', 'new', 'q1', 'a1']);
  });

  test('a pending reply is stopped by any process, which is its end', async () => {
    const { writer, conversations, replies } = open();
    const [turn] = await conversationOf(writer, 1);
    assert.ok(turn);
    const unit = edit(turn.question, 'edited');
    await writer.write(unit);
    assert.deepEqual(await replies.endedElsewhere(WORKER), []);
    assert.equal(await replies.cancel(unit.reply.uid), true);
    assert.deepEqual(await replies.endedElsewhere(WORKER), [unit.reply.uid]);
    assert.deepEqual(await contents(conversations, turn.question.conversationId), ['edited', '']);
    assert.equal(await writer.progress(saying(unit.reply, 'new')), 'stopped');
    assert.equal(await writer.write(endOf(unit.reply, { content: 'n' })), 'stopped');
    assert.deepEqual(await contents(conversations, turn.question.conversationId), ['edited', 'n']);
    assert.equal((await replies.find(unit.reply.uid))?.message.status, 'cancelled');
  });

  test('the stream of a superseded reply ends as it did before', async () => {
    const { writer, replies } = open();
    for (const [status, finishReason] of [
      ['complete', 'stop'],
      ['incomplete', 'length'],
      ['incomplete', 'error'],
      ['cancelled', 'cancelled'],
    ] as const) {
      const question = userMessage(newId());
      const reply = replyTo(question, { status, finishReason });
      await writer.write({ start: startOf(question), reply });
      const unit = regenerate(question);
      await writer.write(unit);
      await writer.write(endOf(unit.reply));
      const found = await replies.find(reply.uid);
      assert.deepEqual([found?.message.status, found?.message.finishReason], [status, finishReason]);
      assert.equal(found?.superseded, true);
      const tail = await replies.tail(reply.uid, { content: 0, reasoning: 0 });
      assert.deepEqual([tail?.status, tail?.finishReason], [status, finishReason]);
    }
  });

  test('a late write of a worker whose lease had expired does not restore a superseded reply', async () => {
    const { writer, conversations, knex } = open();
    const question = userMessage(newId(), { content: 'q1' });
    const old = replyTo(question, STREAMING);
    await writer.write({ start: startOf(question), reply: old, worker: WORKER });
    await writer.progress(saying(old, 'half'));
    const closed = { status: 'incomplete', finish_reason: 'error', worker: null };
    await knex('messages').where({ uid: old.uid }).update(closed);
    const unit = regenerate(question);
    assert.equal(await writer.write(unit), 'saved');
    await writer.write(endOf(unit.reply));
    assert.equal(await writer.progress(saying(old, 'half of it')), 'gone');
    assert.equal(await writer.write(endOf(old, { content: 'half of it' })), 'saved');
    assert.deepEqual(await contents(conversations, question.conversationId), ['q1', 'new']);
    assert.deepEqual(await statuses(knex, question.conversationId), [
      'q1 complete',
      'half of it superseded',
      'new complete',
    ]);
  });

  test('a key whose revision failed begins it again, also when its process died', async () => {
    const { writer, conversations, knex } = open();
    for (const died of [false, true]) {
      const [turn] = await conversationOf(writer, 1);
      assert.ok(turn);
      const hash = () => randomBytes(32).toString('hex');
      const key: KeyClaim = { id: hash(), bodyHash: hash(), cached: false, replaces: null, expiredBefore: 0 };
      const unit = edit(turn.question, 'edited');
      assert.equal(await writer.write({ ...unit, key }), 'saved');
      if (died) await knex('messages').where({ worker: WORKER }).update({ worker: null });
      else
        await writer.write(endOf(unit.reply, { content: '', status: 'incomplete', finishReason: 'error' }));
      const again = { ...unit, reply: { ...unit.reply, uid: newId() } };
      assert.equal(await writer.write({ ...again, key: { ...key, replaces: unit.reply.uid } }), 'saved');
      await writer.write(endOf(again.reply));
      assert.deepEqual(await contents(conversations, turn.question.conversationId), ['edited', 'new']);
      assert.equal((await statuses(knex, turn.question.conversationId)).length, 4);
    }
  });

  test('a purge leaves a conversation with a pending reply', async () => {
    const { writer, purge } = open();
    const [turn] = await conversationOf(writer, 1);
    assert.ok(turn);
    await writer.write(regenerate(turn.question));
    const hidden = await purge.hide([turn.question.conversationId], NOON + 48 * HOUR);
    assert.deepEqual(hidden, []);
  });
});
