import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { TurnWriter } from '../../src/domain/chat/turns.ts';
import type { ConversationCursor, Feedback, Message } from '../../src/domain/conversations/conversation.ts';
import { eachDatabase } from '../support/databases.ts';
import {
  contents,
  HOUR,
  messagesOf,
  NOON,
  newId,
  replyTo,
  startOf,
  userMessage,
  writeTurn,
} from './fixtures.ts';

/** A view of every message. */
const ALL = { newestFirst: false, superseded: true };

const EVER = 0;

eachDatabase((_name, open) => {
  describe('a stored message', () => {
    test('comes back as it was given, member by member', async () => {
      const { conversations, writer } = open();
      const question = userMessage(newId());
      const reply = replyTo(question, { status: 'incomplete', finishReason: 'length' });
      await writer.write({ start: startOf(question), reply });
      const stored = await messagesOf(conversations, question.conversationId, 0, 10);
      assert.deepEqual(
        stored.map(({ seq, ...message }) => message),
        [question, reply],
      );
      assert.ok((stored[0]?.seq ?? 0) < (stored[1]?.seq ?? 0));
    });

    for (const [what, text] of Object.entries({
      'characters beyond the BMP': '😀 𠮷 👩‍👩‍👧 🇨🇳',
      Chinese: '您好！很高兴为您服务。',
      'blanks at both ends': ' \t\r\n x \n ',
      'what SQL would mind': `'"\`\\ \\' % _ ? ?? :name ; -- \\0 \u001a`,
      'other scripts': 'عربي ‏ हिन्दी ไทย e\u0301 \u200d\ufeff',
      'a mebibyte': '长a😀'.repeat(1 << 17),
    })) {
      test(`keeps ${what} byte for byte`, async () => {
        const { conversations, writer } = open();
        const question = userMessage(newId(), { content: text });
        await writer.write({ start: startOf(question) });
        assert.deepEqual(await contents(conversations, question.conversationId), [text]);
      });
    }

    test('has its time to the millisecond, whatever time zone the process is in', async () => {
      const { conversations, writer, knex } = open();
      const question = userMessage(newId(), { timestamp: Date.UTC(2024, 2, 31, 1, 30, 0, 7) });
      const zone = process.env.TZ;
      try {
        for (const [written, read] of [
          ['Asia/Kathmandu', 'America/St_Johns'],
          ['Europe/Berlin', 'UTC'],
        ]) {
          const message = { ...question, uid: newId(), conversationId: newId() };
          process.env.TZ = written;
          await writer.write({ start: startOf(message) });
          process.env.TZ = read;
          const [stored] = await messagesOf(conversations, message.conversationId, 0, 1);
          assert.equal(stored?.timestamp, message.timestamp);
          const row = await knex('messages').where({ uid: message.uid }).first('timestamp');
          assert.equal(row?.timestamp, '2024-03-31 01:30:00.007');
        }
      } finally {
        if (zone === undefined) delete process.env.TZ;
        else process.env.TZ = zone;
      }
    });

    test('may have a model name of any length', async () => {
      const { conversations, writer } = open();
      const question = userMessage(newId());
      await writer.write({ start: startOf(question), reply: replyTo(question, { model: 'm'.repeat(300) }) });
      const stored = await messagesOf(conversations, question.conversationId, 0, 10);
      assert.equal(stored[1]?.model, 'm'.repeat(255));
    });
  });

  describe('find', () => {
    test('gives the conversation with the times of its first and its last message', async () => {
      const { conversations, writer } = open();
      const question = await writeTurn(writer, userMessage(newId()));
      assert.deepEqual(await conversations.find(question.conversationId), {
        id: question.conversationId,
        owner: null,
        createdAt: NOON,
        lastActive: NOON + 1000,
        pinned: false,
        epoch: 0,
        settings: { title: null, user: null, metadata: null, system: null, model: null, parameters: null },
      });
    });

    test('gives null for an unknown one', async () => {
      assert.equal(await open().conversations.find(newId()), null);
    });
  });

  describe('history', () => {
    test('is whole turns, oldest first', async () => {
      const { conversations, writer } = open();
      const id = newId();
      for (const n of [1, 2, 3])
        await writeTurn(writer, userMessage(id, { content: `q${n}` }), { content: `a${n}` });
      const history = (await conversations.context(id, UNRESTRICTED, 10, EVER)).messages;
      assert.deepEqual(
        history.map(({ role, content }) => `${role} ${content}`),
        ['user q1', 'assistant a1', 'user q2', 'assistant a2', 'user q3', 'assistant a3'],
      );
    });

    const limits = [
      [0, []],
      [1, []],
      [2, ['q5', 'a5']],
      [3, ['q5', 'a5']],
      [4, ['q4', 'a4', 'q5', 'a5']],
    ] as const;
    for (const [limit, expected] of limits) {
      test(`of at most ${limit} messages is the newest whole turns that fit`, async () => {
        const { conversations, writer } = open();
        const id = newId();
        for (const n of [1, 2, 3, 4, 5]) {
          await writeTurn(writer, userMessage(id, { content: `q${n}` }), { content: `a${n}` });
        }
        const history = (await conversations.context(id, UNRESTRICTED, limit, EVER)).messages;
        assert.deepEqual(
          history.map((message) => message.content),
          expected,
        );
      });
    }

    test('pairs turns that interleave and orders them by their questions', async () => {
      const { conversations, writer } = open();
      const id = newId();
      const [first, second] = [userMessage(id, { content: 'q1' }), userMessage(id, { content: 'q2' })];
      await writer.write({ start: startOf(first) });
      await writer.write({ start: startOf(second) });
      await writer.write({ reply: replyTo(second, { content: 'a2' }) });
      await writer.write({ reply: replyTo(first, { content: 'a1' }) });
      const history = (await conversations.context(id, UNRESTRICTED, 10, EVER)).messages;
      assert.deepEqual(
        history.map((message) => message.content),
        ['q1', 'a1', 'q2', 'a2'],
      );
    });

    test('leaves out turns without a reply, and those whose reply is empty or still streaming', async () => {
      const { conversations, writer } = open();
      const id = newId();
      await writeTurn(writer, userMessage(id, { content: 'good' }), { content: 'answer' });
      await writer.write({ start: startOf(userMessage(id, { content: 'unanswered' })) });
      await writeTurn(writer, userMessage(id, { content: 'empty' }), { content: '', status: 'incomplete' });
      await writeTurn(writer, userMessage(id, { content: 'running' }), {
        content: 'so f',
        status: 'streaming',
      });
      await writeTurn(writer, userMessage(id, { content: 'stopped' }), {
        content: 'half',
        status: 'cancelled',
      });
      const history = (await conversations.context(id, UNRESTRICTED, 10, EVER)).messages;
      assert.deepEqual(
        history.map((message) => message.content),
        ['good', 'answer', 'stopped', 'half'],
      );
    });

    test('looks past any number of turns that failed', async () => {
      const { conversations, writer } = open();
      const id = newId();
      await writeTurn(writer, userMessage(id, { content: 'good' }), { content: 'answer' });
      for (let n = 0; n < 60; n++) await writer.write({ start: startOf(userMessage(id)) });
      assert.equal((await conversations.context(id, UNRESTRICTED, 4, EVER)).messages.length, 2);
    });

    test('takes the newest of two replies to one question', async () => {
      const { conversations, writer } = open();
      const question = await writeTurn(writer, userMessage(newId()), {
        content: 'cut',
        status: 'incomplete',
      });
      await writer.write({ reply: replyTo(question, { content: 'whole' }) });
      const history = (await conversations.context(question.conversationId, UNRESTRICTED, 10, EVER)).messages;
      assert.deepEqual(
        history.map((message) => message.content),
        ['a question', 'whole'],
      );
    });

    test('is empty when the conversation is unknown or was last active before', async () => {
      const { conversations, writer } = open();
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      assert.deepEqual((await conversations.context(newId(), UNRESTRICTED, 10, EVER)).messages, []);
      assert.equal(
        (await conversations.context(conversationId, UNRESTRICTED, 10, NOON + 1000)).messages.length,
        2,
      );
      assert.deepEqual(
        (await conversations.context(conversationId, UNRESTRICTED, 10, NOON + 1001)).messages,
        [],
      );
    });
  });

  describe('paging', () => {
    test('goes through all messages of one conversation once, in order', async () => {
      const { conversations, writer } = open();
      const id = newId();
      for (let n = 0; n < 7; n++)
        await writer.write({ start: startOf(userMessage(id, { content: `${n}` })) });
      await writer.write({ start: startOf(userMessage(newId(), { content: 'of another' })) });
      const seen: string[] = [];
      let after = 0;
      while (seen.length < 20) {
        const page = await messagesOf(conversations, id, after, 3);
        seen.push(...page.map((message) => message.content));
        if (page.length < 3) break;
        after = page.at(-1)?.seq ?? 0;
      }
      assert.deepEqual(seen, ['0', '1', '2', '3', '4', '5', '6']);
    });

    test('lists conversations newest activity first, then by id descending, each once', async () => {
      const { conversations, writer, knex } = open();
      await knex('conversations').delete();
      const ids = Array.from({ length: 9 }, newId);
      await Promise.all(
        ids.map((id, index) =>
          writer.write({ start: startOf(userMessage(id, { timestamp: NOON + Math.floor(index / 3) })) }),
        ),
      );
      const seen: string[] = [];
      let before: ConversationCursor | null = null;
      while (seen.length < 20) {
        const page = await conversations.list(UNRESTRICTED, 2, before, EVER);
        seen.push(...page.map((conversation) => conversation.id));
        const last = page.at(-1);
        if (!last) break;
        before = { lastActive: last.lastActive, id: last.id };
      }
      assert.deepEqual(seen, ids.toReversed());
      const active = await conversations.list(UNRESTRICTED, 100, null, NOON + 1);
      assert.deepEqual(
        active.map((conversation) => conversation.id),
        ids.slice(3).toReversed(),
      );
    });
  });

  describe('messages of a conversation that is deleted while they are read', () => {
    const long = 'x'.repeat(40_000);
    const turns = async (writer: TurnWriter, id: string, count: number, content: string, at = NOON) => {
      for (let n = 0; n < count; n++)
        await writeTurn(writer, userMessage(id, { content, timestamp: at }), { content, timestamp: at });
    };

    for (const [what, count, content, statement, isReused] of [
      ['before the first statement', 1, 'old', 1, false],
      ['before the first statement, and whose id is reused', 1, 'old', 1, true],
      ['between two statements', 70, 'old', 2, false],
      ['between two statements, and whose id is reused', 70, 'old', 2, true],
      ['before the long contents', 2, long, 2, false],
      ['before the long contents, and whose id is reused', 2, long, 2, true],
    ] as const) {
      test(`are not found, ${what}`, async (t) => {
        const { conversations, writer, knex } = open();
        const id = newId();
        await turns(writer, id, count, content);
        const found = await conversations.find(id);
        assert.ok(found);
        const { raw } = knex;
        let statements = 0;
        t.mock.method(knex, 'raw', async (sql: string, bindings: string[]) => {
          if (/^SELECT id, .*FROM messages/s.test(sql) && ++statements === statement) {
            assert.equal(await conversations.delete(id, UNRESTRICTED), true);
            if (isReused) await turns(writer, id, 1, 'new', NOON + HOUR);
          }
          return raw.call(knex, sql, bindings);
        });
        await assert.rejects(conversations.messages(found, 0, 1000, 1e9, ALL), {
          code: 'conversation_not_found',
        });
        assert.ok(statements >= statement);
      });
    }

    test('are not found after its last one either', async () => {
      const { conversations, writer } = open();
      const question = await writeTurn(writer, userMessage(newId()));
      const found = await conversations.find(question.conversationId);
      assert.ok(found);
      const last = Number.MAX_SAFE_INTEGER;
      assert.deepEqual(await conversations.messages(found, last, 10, 1e9, ALL), {
        messages: [],
        hasMore: false,
      });
      await conversations.delete(found.id, UNRESTRICTED);
      await assert.rejects(conversations.messages(found, last, 10, 1e9, ALL), {
        code: 'conversation_not_found',
      });
    });
  });

  describe('delete', () => {
    test('takes the messages along and leaves the others', async () => {
      const { conversations, writer, knex } = open();
      const gone = await writeTurn(writer, userMessage(newId()));
      const kept = await writeTurn(writer, userMessage(newId()));
      assert.equal(await conversations.delete(gone.conversationId, UNRESTRICTED), true);
      assert.equal(await conversations.find(gone.conversationId), null);
      assert.deepEqual(await knex('messages').where({ conversation_id: gone.conversationId }), []);
      assert.equal((await contents(conversations, kept.conversationId)).length, 2);
    });

    test('says when there was nothing', async () => {
      assert.equal(await open().conversations.delete(newId(), UNRESTRICTED), false);
    });
  });

  test('an expired conversation that starts again continues the numbers of its messages', async () => {
    const { conversations, writer } = open();
    const { conversationId } = await writeTurn(writer, userMessage(newId()));
    const last = (await messagesOf(conversations, conversationId, 0, 10)).at(-1)?.seq ?? 0;
    await writeTurn(writer, userMessage(conversationId, { timestamp: NOON + 100 * HOUR }));
    const [stored] = await messagesOf(conversations, conversationId, 0, 1);
    assert.equal(stored?.seq, last + 1);
  });

  test('a question is marked with both ratings when its replies are rated at the same time', async () => {
    const { conversations, writer, knex } = open();
    const question = userMessage(newId());
    const replies = [replyTo(question), replyTo(question)];
    await writer.write({ start: startOf(question) });
    for (const reply of replies) await writer.write({ reply });
    const rate = (rating: Feedback['rating'] | null, { uid }: Message) =>
      conversations.rate(uid, rating && { rating, comment: null });
    for (let round = 0; round < 10; round++) {
      for (const reply of replies) assert.equal(await rate(null, reply), true);
      const [first, second] = replies;
      assert.ok(first && second);
      await Promise.all([rate('up', first), rate('down', second)]);
      const [marked] = await knex('messages').where({ uid: question.uid }).select('rating');
      assert.equal(marked?.rating, 'both', `round ${round}`);
    }
  });

  test('activity only moves forward', async () => {
    const { conversations, writer } = open();
    const id = newId();
    await writer.write({ start: startOf(userMessage(id, { timestamp: NOON + HOUR })) });
    await writer.write({ start: startOf(userMessage(id, { timestamp: NOON })) });
    const found = await conversations.find(id);
    assert.equal(found?.lastActive, NOON + HOUR);
    assert.equal(found?.createdAt, NOON + HOUR);
  });
});
