import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import type { Knex } from 'knex';
import type { Database } from '../../src/db/database.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import { until } from '../support/chat-server.ts';
import { eachDatabase } from '../support/databases.ts';
import { HOUR, NOON, newId, replyTo, startOf, userMessage, writeTurn } from './fixtures.ts';

const WORKER = newId();

/** A reply of which so much is stored. */
async function growing({ writer }: Database, content: string, worker = WORKER): Promise<Message> {
  const question = userMessage(newId());
  const reply = replyTo(question, { content: '', status: 'streaming', finishReason: null, usage: null });
  await writer.write({ start: startOf(question), reply, worker });
  await writer.progress({
    uid: reply.uid,
    worker,
    reasoningAfter: () => '',
    after: (length) => content.slice(length),
  });
  return reply;
}

/** Until a statement with these words waits for a lock. */
async function waiting(knex: Knex, words: string): Promise<void> {
  await until('the wait for a lock', async () => {
    const [rows] = await knex.raw(
      `SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE ?`,
      [`%${words}%`],
    );
    // Asked more often than every 100 ms the server repeats its last answer.
    if (rows.length === 0) await delay(150);
    return rows.length > 0;
  });
}

eachDatabase((_name, open, options) => {
  describe('a stored reply', () => {
    test('is found by its id with its conversation, as it was written', async () => {
      const { writer, replies } = open();
      const question = userMessage(newId());
      const reply = replyTo(question, { content: '**Grüße** 😀\n', format: 'text' });
      await writer.write({ start: startOf(question), reply, activeAt: NOON + HOUR });
      const found = await replies.find(reply.uid);
      assert(found);
      assert.deepEqual({ ...found.message, seq: 0 }, { ...reply, seq: 0 });
      assert.deepEqual(found.conversation, {
        id: question.conversationId,
        owner: null,
        createdAt: NOON,
        lastActive: NOON + HOUR,
        pinned: false,
      });
    });

    test('is neither a question, nor an unknown nor a deleted message', async () => {
      const { writer, replies, conversations } = open();
      const question = await writeTurn(writer, userMessage(newId()));
      assert.equal(await replies.find(question.uid), null);
      assert.equal(await replies.find(newId()), null);
      const reply = replyTo(question);
      await writer.write({ reply });
      assert.equal((await replies.find(reply.uid))?.message.uid, reply.uid);
      await conversations.delete(question.conversationId, UNRESTRICTED);
      assert.equal(await replies.find(reply.uid), null);
      assert.equal(await replies.tail(reply.uid, { content: 0, reasoning: 0 }), null);
    });
  });

  describe('the tail of a reply', () => {
    test('is the text after a number of characters, not of UTF-16 units', async () => {
      const database = open();
      const text = 'a您😀b👨‍👩‍👧 **é** 𠮷\r\n\t|\u0001\u{10FFFF}z';
      const { uid } = await growing(database, text);
      const characters = [...text];
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 0, max: characters.length + 3 }), async (known) => {
          const tail = await database.replies.tail(uid, { content: known, reasoning: 0 });
          assert.equal(tail?.content, characters.slice(known).join(''));
        }),
        { numRuns: characters.length * 2 },
      );
    });

    test('has the status of the reply, and how it ended', async () => {
      const database = open();
      const reply = await growing(database, 'Half');
      const none = { finishReason: null, usage: null, reasoning: null, details: null };
      const running = { content: 'f', settling: false, status: 'streaming', model: 'some-model', ...none };
      assert.deepEqual(await database.replies.tail(reply.uid, { content: 3, reasoning: 0 }), running);
      const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };
      const end = { status: 'complete', model: 'it says m', finishReason: 'stop', usage } as const;
      await database.writer.write({ reply: { ...reply, ...end, content: 'Half of it' } });
      assert.deepEqual(await database.replies.tail(reply.uid, { content: 4, reasoning: 0 }), {
        ...end,
        settling: false,
        content: ' of it',
        reasoning: null,
        details: null,
      });
    });

    test('says that a stopped reply may still grow, until its worker has finished it', async () => {
      const database = open();
      const reply = await growing(database, 'Half');
      const settling = async () => [
        (await database.replies.find(reply.uid))?.settling,
        (await database.replies.tail(reply.uid, { content: 0, reasoning: 0 }))?.settling,
      ];
      assert.deepEqual(await settling(), [false, false]);
      await database.replies.cancel(reply.uid);
      assert.deepEqual(await settling(), [true, true]);
      const end = { status: 'cancelled', finishReason: 'cancelled', content: 'Half and more' } as const;
      await database.writer.write({ reply: { ...reply, ...end } });
      assert.deepEqual(await settling(), [false, false]);
    });
  });

  describe('cancelling a reply', () => {
    test('works once, while the reply is running, and keeps its worker in the row to add the rest', async () => {
      const database = open();
      const { replies, knex } = database;
      const { uid } = await growing(database, 'Half');
      assert.equal(await replies.cancel(uid), true);
      assert.equal(await replies.cancel(uid), false);
      const [row] = await knex('messages').where({ uid });
      assert.deepEqual(
        [row?.content, row?.status, row?.finish_reason, row?.worker],
        ['Half', 'cancelled', 'cancelled', WORKER],
      );
    });

    test('changes neither a reply that has ended, nor an unknown one', async () => {
      const { writer, replies } = open();
      const question = userMessage(newId());
      for (const status of ['complete', 'incomplete'] as const) {
        const reply = replyTo(question, { status });
        await writer.write({ start: startOf(question), reply });
        assert.equal(await replies.cancel(reply.uid), false);
        assert.equal((await replies.find(reply.uid))?.message.status, status);
      }
      assert.equal(await replies.cancel(newId()), false);
    });

    test('is reported to the worker of the reply, and to no other, until it has ended the reply', async () => {
      const database = open();
      const { replies, writer } = database;
      const [mine, theirs] = [newId(), newId()];
      const stopped = await growing(database, 'one', mine);
      await growing(database, 'two', mine);
      const other = await growing(database, 'three', theirs);
      assert.deepEqual(await replies.endedElsewhere(mine), []);
      await replies.cancel(stopped.uid);
      await replies.cancel(other.uid);
      assert.deepEqual(await replies.endedElsewhere(mine), [stopped.uid]);
      assert.deepEqual(await replies.endedElsewhere(theirs), [other.uid]);
      await writer.write({ reply: { ...stopped, content: 'one more', status: 'cancelled' } });
      assert.deepEqual(await replies.endedElsewhere(mine), []);
    });

    test('and the end of the reply agree on which was first', async () => {
      const [one, two] = [open(), open()];
      for (let round = 0; round < 20; round++) {
        const reply = await growing(one, 'Half');
        const end = { ...reply, content: 'Half of it', status: 'complete', finishReason: 'stop' } as const;
        const [outcome, cancelled] = await Promise.all([
          one.writer.write({ reply: end }),
          two.replies.cancel(reply.uid),
        ]);
        const row = (await two.replies.find(reply.uid))?.message;
        const told = { outcome, cancelled, status: row?.status, content: row?.content };
        const first = cancelled
          ? { outcome: 'stopped', status: 'cancelled' }
          : { outcome: 'saved', status: 'complete' };
        assert.deepEqual(told, { ...first, cancelled, content: 'Half of it' }, `round ${round}`);
      }
    });

    if (options.target.kind === 'mysql') {
      test('waits for an end in progress', { timeout: 20_000 }, async () => {
        const database = open();
        const { knex, replies } = database;
        const { uid, conversationId } = await growing(database, 'Half');
        let cancelled: Promise<boolean> | undefined;
        await knex.transaction(async (trx) => {
          // What the writer does first and last; between the two it believes what it read.
          await trx('conversations').where({ id: conversationId }).forUpdate().select('id');
          cancelled = replies.cancel(uid);
          await waiting(knex, conversationId);
          await trx('messages').where({ uid }).update({ status: 'complete', finish_reason: 'stop' });
        });
        assert.equal(await cancelled, false);
        assert.equal((await replies.find(uid))?.message.status, 'complete');
      });
    }
  });

  describe('an idempotency key', () => {
    const hash = () => randomBytes(32).toString('hex');

    test('finds its turn as long as the conversation has not expired', async () => {
      const { writer, replies } = open();
      for (const cached of [true, false]) {
        const question = userMessage(newId());
        const reply = replyTo(question);
        const key = { id: hash(), bodyHash: hash(), cached, replaces: null, expiredBefore: NOON - HOUR };
        await writer.write({ start: startOf(question), reply, key });
        assert.deepEqual(await replies.key(key.id, NOON + 1000), {
          bodyHash: key.bodyHash,
          cached,
          conversationId: question.conversationId,
          questionId: question.uid,
          replyId: reply.uid,
        });
        assert.equal(await replies.key(key.id, NOON + 1001), null);
      }
      assert.equal(await replies.key(hash(), 0), null);
    });
  });

  test('an unavailable database is reported by its error', async () => {
    const database = open();
    await database.close();
    const { replies } = database;
    const calls = [
      replies.find(newId()),
      replies.tail(newId(), { content: 0, reasoning: 0 }),
      replies.cancel(newId()),
      replies.endedElsewhere(newId()),
      replies.key('k', 0),
    ];
    for (const call of calls) await assert.rejects(call, { code: 'database_unavailable' });
  });
});
