import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Knex } from 'knex';
import { createKnex } from '../../src/db/core/client.ts';
import { GroupCommitWriter } from '../../src/db/turns/turn-writer.ts';
import { type Access, UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { KeyClaim, ReplyProgress, TurnWriter } from '../../src/domain/chat/turns.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import { eachDatabase, silent } from '../support/databases.ts';
import {
  contents,
  HOUR,
  messagesOf,
  NOON,
  newId,
  onStatement,
  replyTo,
  startOf,
  userMessage,
  writeTurn,
} from './fixtures.ts';

/** The commits, and the codes of the errors, that go through a Knex instance. */
function watched(knex: Knex): { commits: number; errors: unknown[] } {
  const seen = { commits: 0, errors: [] as unknown[] };
  onStatement(
    knex,
    (sql) => {
      if (/\bCOMMIT;?$/.test(sql)) seen.commits += 1;
    },
    ({ code }) => seen.errors.push(code),
  );
  return seen;
}

/** A format that no schema takes, as a bad row. */
const bad = (message: Message): Message => ({ ...message, format: 'robot' as 'text' });

const ALICE: Access = { owner: 'alice', unrestricted: false };
const BOB: Access = { owner: 'bob', unrestricted: false };
const WORKER = newId();
const BROKEN = { status: 'incomplete', finishReason: 'error' } as const;
/** What is stored of {@link ended} with these words. */
const WHOLE = {
  content: 'Half 😀 of it',
  length: 13,
  status: 'complete',
  worker: null,
  finish_reason: 'stop',
};

/** The first state of a reply. */
function streaming(question: Message): Message {
  return replyTo(question, { content: '', status: 'streaming', finishReason: null, usage: null });
}

async function begin(writer: TurnWriter): Promise<Message> {
  const question = userMessage(newId());
  const reply = streaming(question);
  assert.equal(await writer.write({ start: startOf(question), reply, worker: WORKER }), 'saved');
  return reply;
}

function ended(begun: Message, content: string, over: Partial<Message> = {}): Message {
  return { ...begun, content, status: 'complete', finishReason: 'stop', ...over };
}

/** The reply as it has grown to be `text`. */
function saying({ uid }: Message, text: string): ReplyProgress {
  return { uid, worker: WORKER, reasoningAfter: () => '', after: (length) => text.slice(length) };
}

async function rowOf(knex: Knex, uid: string) {
  const columns = ['content', 'length', 'status', 'worker', 'finish_reason'] as const;
  const [row] = await knex('messages')
    .select(...columns)
    .where({ uid });
  return row && { ...row };
}

/** What other processes do with the replies of one that is silent. */
async function closedByOthers(knex: Knex, uid: string): Promise<void> {
  await knex('messages')
    .where({ uid })
    .update({ status: 'incomplete', finish_reason: 'error', worker: null });
}

function keyOf(): KeyClaim {
  const hash = () => randomBytes(32).toString('hex');
  return { id: hash(), bodyHash: hash(), cached: false, replaces: null, expiredBefore: NOON - 24 * HOUR };
}

/** The beginning of a turn that claims a key. */
function keyed(question: Message, key: KeyClaim) {
  return { start: startOf(question), reply: streaming(question), worker: WORKER, key };
}

eachDatabase((_name, open, options) => {
  describe('a start', () => {
    test('of an unknown id creates a conversation', async () => {
      const { conversations, writer } = open();
      const question = userMessage(newId());
      assert.equal(await writer.write({ start: startOf(question, { named: false }) }), 'saved');
      assert.equal((await conversations.find(question.conversationId))?.lastActive, NOON);
    });

    test('continues a conversation that has not expired', async () => {
      const { conversations, writer } = open();
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      const next = userMessage(conversationId, { timestamp: NOON + 25 * HOUR });
      await writer.write({ start: startOf(next, { expiredBefore: NOON + 1000 }) });
      assert.equal((await contents(conversations, conversationId)).length, 3);
      assert.equal((await conversations.find(conversationId))?.createdAt, NOON);
    });

    test('of another owner’s id writes nothing, even if it has expired', async () => {
      const { conversations, writer, knex } = open();
      const question = userMessage(newId());
      const { conversationId } = question;
      assert.equal(await writer.write({ start: startOf(question, { by: ALICE }) }), 'saved');
      const late = NOON + 1000;
      for (const expiredBefore of [0, late]) {
        const start = startOf(userMessage(conversationId), { by: BOB, expiredBefore });
        assert.equal(await writer.write({ start }), 'foreign');
        const keyed = { start, reply: streaming(start.message), worker: WORKER, key: keyOf() };
        assert.equal(await writer.write(keyed), 'foreign');
      }
      assert.deepEqual(await contents(conversations, conversationId), [question.content]);
      assert.equal((await conversations.find(conversationId))?.owner, 'alice');
      const [deletions] = await knex('deletions')
        .where({ conversation_id: conversationId })
        .count({ count: '*' });
      assert.equal(Number(deletions?.count), 0);
      const admin = { owner: 'bob', unrestricted: true };
      const more = startOf(userMessage(conversationId), { by: admin, expiredBefore: 0 });
      assert.equal(await writer.write({ start: more }), 'saved');
      assert.equal((await conversations.find(conversationId))?.owner, 'alice');
    });

    test('of an id that two owners use at the same time belongs to one of them', async () => {
      const { conversations, writer } = open();
      const { writer: other } = open();
      for (let round = 0; round < 30; round += 1) {
        const id = newId();
        const begin = async (by: Access, at: TurnWriter) => {
          const message = userMessage(id, { content: by.owner ?? '' });
          return [by.owner, await at.write({ start: startOf(message, { by }) })];
        };
        const both = [begin(ALICE, writer), begin(BOB, writer), begin(BOB, other), begin(ALICE, other)];
        const outcomes = await Promise.all(both);
        const owner = (await conversations.find(id))?.owner ?? '';
        assert.deepEqual(await contents(conversations, id), [owner, owner]);
        for (const [name, outcome] of outcomes) assert.equal(outcome, name === owner ? 'saved' : 'foreign');
      }
    });

    test('recreates an expired conversation without its old messages', async () => {
      const { conversations, writer } = open();
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      const next = userMessage(conversationId, { content: 'again', timestamp: NOON + 25 * HOUR });
      await writer.write({ start: startOf(next, { expiredBefore: NOON + 1001 }) });
      assert.deepEqual(await contents(conversations, conversationId), ['again']);
      assert.equal((await conversations.find(conversationId))?.createdAt, NOON + 25 * HOUR);
    });

    test('of two at the same time recreates an expired conversation once', async () => {
      const { conversations, writer } = open();
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      const timestamp = NOON + 25 * HOUR;
      const next = ['one', 'two'].map((content) => userMessage(conversationId, { content, timestamp }));
      await Promise.all(next.map((message) => writer.write({ start: startOf(message) })));
      assert.deepEqual(await contents(conversations, conversationId), ['one', 'two']);
    });
  });

  describe('a reply', () => {
    test('is gone, and restores nothing, when its conversation was deleted', async () => {
      const { conversations, writer, knex } = open();
      const question = userMessage(newId());
      await writer.write({ start: startOf(question) });
      await conversations.delete(question.conversationId, UNRESTRICTED);
      assert.equal(await writer.write({ reply: replyTo(question) }), 'gone');
      assert.equal(await conversations.find(question.conversationId), null);
      assert.deepEqual(await knex('messages').where({ conversation_id: question.conversationId }), []);
    });

    test('is gone when its conversation was recreated, which it does not change', async () => {
      const { conversations, writer } = open();
      const question = userMessage(newId());
      const { conversationId } = question;
      await writer.write({ start: startOf(question) });
      await conversations.delete(conversationId, UNRESTRICTED);
      await writer.write({ start: startOf(userMessage(conversationId, { content: 'new' })) });
      const late = replyTo(question, { timestamp: NOON + HOUR });
      assert.equal(await writer.write({ reply: late }), 'gone');
      assert.deepEqual(await contents(conversations, conversationId), ['new']);
      assert.equal((await conversations.find(conversationId))?.lastActive, NOON);
    });

    test('is gone when its question is in another conversation or does not exist', async () => {
      const { writer } = open();
      const question = await writeTurn(writer, userMessage(newId()));
      const other = await writeTurn(writer, userMessage(newId()));
      const stray = { ...replyTo(question), conversationId: other.conversationId };
      assert.equal(await writer.write({ reply: stray }), 'gone');
      assert.equal(await writer.write({ reply: replyTo(question, { replyTo: null }) }), 'gone');
    });

    test('in the same transaction finds its question', async () => {
      const { conversations, writer } = open();
      const question = userMessage(newId());
      const outcomes = await Promise.all([
        writer.write({ start: startOf(question, { named: false }) }),
        writer.write({ reply: replyTo(question) }),
      ]);
      assert.deepEqual(outcomes, ['saved', 'saved']);
      assert.deepEqual(await contents(conversations, question.conversationId), ['a question', 'an answer']);
    });
  });

  describe('a running reply', () => {
    test('is an empty row of its worker until progress and end fill it', async () => {
      const { writer, knex } = open();
      const begun = await begin(writer);
      assert.deepEqual(await rowOf(knex, begun.uid), {
        content: '',
        length: 0,
        status: 'streaming',
        worker: WORKER,
        finish_reason: null,
      });
      assert.equal(await writer.progress(saying(begun, 'Half 😀')), 'saved');
      assert.deepEqual(await rowOf(knex, begun.uid), {
        content: 'Half 😀',
        length: 7,
        status: 'streaming',
        worker: WORKER,
        finish_reason: null,
      });
      assert.equal(await writer.write({ reply: ended(begun, 'Half 😀 of it') }), 'saved');
      assert.deepEqual(await rowOf(knex, begun.uid), WHOLE);
    });

    test('that ends in the same transaction is one complete row', async () => {
      const { writer, knex } = open();
      const question = userMessage(newId());
      const begun = streaming(question);
      const outcomes = await Promise.all([
        writer.write({ start: startOf(question), reply: begun, worker: WORKER }),
        writer.progress(saying(begun, 'Half')),
        writer.write({ reply: ended(begun, 'Half 😀 of it') }),
      ]);
      assert.deepEqual(outcomes, ['saved', 'saved', 'saved']);
      assert.deepEqual(await rowOf(knex, begun.uid), WHOLE);
    });

    test('sets its conversation’s last activity to its end, not its start', async () => {
      const { writer, conversations } = open();
      const begun = await begin(writer);
      await writer.write({ reply: ended(begun, 'x'), activeAt: NOON + HOUR });
      const conversation = await conversations.find(begun.conversationId);
      assert.equal(conversation?.lastActive, NOON + HOUR);
      assert.equal(conversation?.createdAt, NOON);
    });

    test('asks for the text after the stored units, whatever these are', async () => {
      const { writer, knex } = open();
      const begun = await begin(writer);
      const asked: number[] = [];
      for (const text of ['您好', '您好😀', '您好😀', '您好😀 **x**']) {
        const progress = saying(begun, text);
        const after = (length: number) => {
          asked.push(length);
          return progress.after(length);
        };
        assert.equal(await writer.progress({ ...progress, after }), 'saved');
        assert.equal((await rowOf(knex, begun.uid))?.content, text);
      }
      assert.deepEqual(asked, [0, 2, 4, 4]);
    });

    test('grows in one transaction with many others', async (t) => {
      const knex = createKnex({ ...options, poolMin: 0, poolMax: 1, batches: true });
      t.after(() => knex.destroy());
      const writer = new GroupCommitWriter(knex, silent);
      const all = await Promise.all(Array.from({ length: 40 }, () => begin(writer)));
      const seen = watched(knex);
      await Promise.all(all.map((begun, n) => writer.progress(saying(begun, `reply ${n}`))));
      assert.equal(seen.commits, 1);
      const rows = await Promise.all(all.map(({ uid }) => rowOf(knex, uid)));
      assert.deepEqual(
        rows.map((row) => row?.content),
        all.map((_, n) => `reply ${n}`),
      );
    });

    test('can be written repeatedly, also after its end', async () => {
      const { writer, knex } = open();
      const question = userMessage(newId());
      const begun = streaming(question);
      const first = { start: startOf(question), reply: begun, worker: WORKER };
      await writer.write(first);
      await writer.progress(saying(begun, 'Half'));
      assert.equal(await writer.write(first), 'saved');
      assert.equal((await rowOf(knex, begun.uid))?.content, 'Half');
      const last = { reply: ended(begun, 'Half 😀 of it') };
      for (const unit of [last, last, first]) assert.equal(await writer.write(unit), 'saved');
      assert.equal(await writer.progress(saying(begun, 'Half 😀 of it, and more')), 'saved');
      assert.deepEqual(await rowOf(knex, begun.uid), WHOLE);
    });

    test('that fails without text leaves only its question', async () => {
      const { writer, conversations } = open();
      const begun = await begin(writer);
      await writer.write({ reply: ended(begun, '', BROKEN) });
      assert.deepEqual(await contents(conversations, begun.conversationId), ['a question']);
      // Nor does a write that is repeated bring it back.
      await writer.write({ reply: ended(begun, '', BROKEN) });
      assert.deepEqual(await contents(conversations, begun.conversationId), ['a question']);
    });

    test('that fails with text keeps it, as incomplete', async () => {
      const { writer, knex } = open();
      const begun = await begin(writer);
      await writer.write({ reply: ended(begun, 'Half', BROKEN) });
      const row = await rowOf(knex, begun.uid);
      assert.deepEqual([row?.content, row?.status, row?.worker], ['Half', 'incomplete', null]);
    });

    test('continues after another process closed it', async () => {
      const { writer, knex } = open();
      const begun = await begin(writer);
      await writer.progress(saying(begun, 'Half'));
      await closedByOthers(knex, begun.uid);
      assert.equal(await writer.progress(saying(begun, 'Half 😀')), 'saved');
      assert.deepEqual(await rowOf(knex, begun.uid), {
        content: 'Half 😀',
        length: 7,
        status: 'streaming',
        worker: WORKER,
        finish_reason: null,
      });
      await closedByOthers(knex, begun.uid);
      assert.equal(await writer.progress(saying(begun, 'Half 😀')), 'saved', 'nothing new to say');
      assert.equal(await writer.write({ reply: ended(begun, 'Half 😀 of it') }), 'saved');
      assert.deepEqual(await rowOf(knex, begun.uid), WHOLE);
    });

    test('stays cancelled when another process cancelled it, with its text', async () => {
      const { writer, replies, knex } = open();
      const begun = await begin(writer);
      await writer.progress(saying(begun, 'Half'));
      assert.equal(await replies.cancel(begun.uid), true);
      assert.equal(await writer.progress(saying(begun, 'Half and more')), 'stopped');
      assert.equal((await rowOf(knex, begun.uid))?.content, 'Half', 'progress writes nothing any more');
      assert.equal(await writer.write({ reply: ended(begun, 'Half and more') }), 'stopped');
      const stopped = {
        content: 'Half and more',
        length: 13,
        status: 'cancelled',
        worker: null,
        finish_reason: 'cancelled',
      };
      assert.deepEqual(await rowOf(knex, begun.uid), stopped);
      const cancelled = { status: 'cancelled', finishReason: 'cancelled' } as const;
      assert.equal(await writer.write({ reply: ended(begun, 'Half and more', cancelled) }), 'saved');
      assert.deepEqual(await rowOf(knex, begun.uid), stopped);
    });

    test('cancelled elsewhere before the first token stays, even when its call fails', async () => {
      const { writer, replies, knex } = open();
      const begun = await begin(writer);
      await replies.cancel(begun.uid);
      await writer.write({ reply: ended(begun, '', BROKEN) });
      assert.equal((await rowOf(knex, begun.uid))?.status, 'cancelled');
    });

    test('is gone, progress and end alike, when its conversation was deleted', async () => {
      const { writer, conversations, knex } = open();
      const begun = await begin(writer);
      await conversations.delete(begun.conversationId, UNRESTRICTED);
      assert.equal(await writer.progress(saying(begun, 'Half')), 'gone');
      assert.equal(await writer.write({ reply: ended(begun, 'Half') }), 'gone');
      assert.equal(await conversations.find(begun.conversationId), null);
      assert.equal(await rowOf(knex, begun.uid), undefined);
    });
  });

  describe('a replayed turn', () => {
    test('of a conversation deleted since is not restored', async () => {
      const { writer, conversations } = open();
      const question = await writeTurn(writer, userMessage(newId()));
      const { conversationId } = question;
      await conversations.delete(conversationId, UNRESTRICTED);
      // A deletion is dated by the clock, the fixtures are not.
      const said = userMessage(conversationId, { timestamp: Date.now() - HOUR });
      const late = { start: startOf(said), reply: replyTo(said), replayed: true };
      assert.equal(await writer.write(late), 'gone');
      assert.equal(await conversations.find(conversationId), null);
    });

    test('of a conversation recreated since the deletion is written', async () => {
      const { writer, conversations } = open();
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      await conversations.delete(conversationId, UNRESTRICTED);
      const said = userMessage(conversationId, { timestamp: Date.now() + HOUR, content: 'anew' });
      assert.equal(await writer.write({ start: startOf(said), replayed: true }), 'saved');
      assert.deepEqual(await contents(conversations, conversationId), ['anew']);
    });

    test('of a conversation that began in the journal is written, and its reply after it', async () => {
      const { writer, conversations } = open();
      const question = userMessage(newId());
      const { conversationId } = question;
      assert.equal(await writer.write({ start: startOf(question), replayed: true }), 'saved');
      assert.equal(await writer.write({ reply: replyTo(question), replayed: true }), 'saved');
      assert.deepEqual(await contents(conversations, conversationId), ['a question', 'an answer']);
    });

    test('of two, of which one was deleted, is written for the other in the same batch', async () => {
      const { writer, conversations } = open();
      const deleted = await writeTurn(writer, userMessage(newId()));
      await conversations.delete(deleted.conversationId, UNRESTRICTED);
      const late = userMessage(deleted.conversationId);
      const other = userMessage(newId());
      const units = [late, other].map((message) => ({ start: startOf(message), replayed: true }));
      assert.deepEqual(await Promise.all(units.map((unit) => writer.write(unit))), ['gone', 'saved']);
    });
  });

  describe('an idempotency key', () => {
    test('belongs to the turn that claimed it first, also within one batch', async () => {
      const { writer, replies, conversations } = open();
      const key = keyOf();
      const turns = [1, 2, 3].map(() => userMessage(newId()));
      const outcomes = await Promise.all(turns.map((question) => writer.write(keyed(question, key))));
      assert.deepEqual(outcomes, ['saved', 'taken', 'taken']);
      for (const [n, { conversationId }] of turns.entries()) {
        assert.equal((await conversations.find(conversationId)) !== null, n === 0);
      }
      assert.equal(await writer.write(keyed(userMessage(newId()), key)), 'taken');
      const stored = await replies.key(key.id, 0);
      assert.equal(stored?.questionId, turns[0]?.uid);
      assert.equal(stored?.bodyHash, key.bodyHash);
    });

    test('that two processes claim at the same moment goes to one of them', async () => {
      // Each of its own connection, so that neither sees what the other has not committed.
      const pair = [1, 2].map(() => open({}));
      for (let round = 0; round < 15; round++) {
        const key = keyOf();
        const named = round % 2 === 0;
        const turns = pair.map(({ writer }) => {
          const unit = keyed(userMessage(newId()), key);
          return writer.write({ ...unit, start: { ...unit.start, named } });
        });
        const settled = await Promise.allSettled(turns);
        const outcomes = settled.map((one) => (one.status === 'fulfilled' ? one.value : String(one.reason)));
        assert.deepEqual(outcomes.sort(), ['saved', 'taken'], `round ${round}`);
      }
    });

    test('is deleted with its conversation', async () => {
      const { writer, replies, conversations } = open();
      const key = keyOf();
      const question = userMessage(newId());
      await writer.write(keyed(question, key));
      await conversations.delete(question.conversationId, UNRESTRICTED);
      assert.equal(await replies.key(key.id, 0), null);
      assert.equal(await writer.write(keyed(userMessage(newId()), key)), 'saved');
    });

    test('of an expired conversation is free for the same or another conversation', async () => {
      const { writer, replies } = open();
      const later = { timestamp: NOON + 25 * HOUR };
      for (const same of [true, false]) {
        const key = keyOf();
        const question = userMessage(newId());
        await writer.write(keyed(question, key));
        const next = userMessage(same ? question.conversationId : newId(), later);
        const claim = { ...key, expiredBefore: NOON + HOUR };
        assert.equal(await replies.key(key.id, claim.expiredBefore), null);
        const unit = keyed(next, claim);
        const start = { ...unit.start, expiredBefore: claim.expiredBefore };
        assert.equal(await writer.write({ ...unit, start }), 'saved');
        assert.equal((await replies.key(key.id, 0))?.questionId, next.uid);
      }
    });

    test('of a failed reply passes to the next one, once, and its question is not stored again', async () => {
      const { writer, replies, conversations } = open();
      const key = keyOf();
      const question = userMessage(newId());
      const first = keyed(question, key);
      await writer.write(first);
      await writer.write({ reply: ended(first.reply, 'Half', BROKEN) });
      const claim = { ...key, replaces: first.reply.uid };
      const again = [1, 2].map(() => ({ reply: streaming(question), key: claim, worker: WORKER }));
      const outcomes = await Promise.all(again.map((unit) => writer.write(unit)));
      assert.deepEqual(outcomes, ['saved', 'taken']);
      assert.equal((await replies.key(key.id, 0))?.replyId, again[0]?.reply.uid);
      assert.deepEqual(await contents(conversations, question.conversationId), ['a question', '']);
    });

    test('of a failed reply takes no text of a worker that was taken for dead', async () => {
      const { writer, conversations } = open();
      const key = keyOf();
      const question = userMessage(newId());
      const first = keyed(question, key);
      await writer.write(first);
      await writer.write({ reply: ended(first.reply, 'Half', BROKEN) });
      const reply = streaming(question);
      const claim = { ...key, replaces: first.reply.uid };
      assert.equal(await writer.write({ reply, key: claim, worker: WORKER }), 'saved');
      const { uid } = first.reply;
      const progress = {
        uid,
        worker: WORKER,
        reasoningAfter: () => '',
        after: (length: number) => 'Half and more'.slice(length),
      };
      assert.equal(await writer.progress(progress), 'gone');
      const late = { reply: ended(first.reply, 'Half and more'), worker: WORKER };
      assert.equal(await writer.write(late), 'replaced');
      await writer.write({ reply: ended(reply, 'at last'), worker: WORKER });
      assert.deepEqual(await contents(conversations, question.conversationId), ['a question', 'at last']);
    });

    test('of a reply that is still running does not pass to another attempt', async () => {
      const { writer, conversations } = open();
      const key = keyOf();
      const question = userMessage(newId());
      const first = keyed(question, key);
      await writer.write(first);
      await writer.write({ reply: ended(first.reply, 'Half', BROKEN) });
      const after = (length: number) => 'Half and more'.slice(length);
      await writer.progress({ uid: first.reply.uid, worker: WORKER, after, reasoningAfter: () => '' });
      const claim = { ...key, replaces: first.reply.uid };
      const retry = { reply: streaming(question), key: claim, worker: WORKER };
      assert.equal(await writer.write(retry), 'taken');
      await writer.write({ reply: ended(first.reply, 'Half and more'), worker: WORKER });
      assert.equal(await writer.write(retry), 'taken');
      assert.deepEqual(await contents(conversations, question.conversationId), [
        'a question',
        'Half and more',
      ]);
    });

    test('of a failed reply without text leaves no trace', async () => {
      const { writer, conversations, knex } = open();
      const key = keyOf();
      const question = userMessage(newId());
      const first = keyed(question, key);
      // As when a process died before the first word, and others closed the row.
      await writer.write(first);
      await knex('messages').where({ uid: first.reply.uid }).update({ status: 'incomplete' });
      const reply = streaming(question);
      await writer.write({ reply, key: { ...key, replaces: first.reply.uid }, worker: WORKER });
      await writer.write({ reply: ended(reply, 'at last') });
      assert.deepEqual(await contents(conversations, question.conversationId), ['a question', 'at last']);
    });

    test('of a reply whose conversation was deleted does not pass to another attempt', async () => {
      const { writer, conversations } = open();
      const key = keyOf();
      const question = userMessage(newId());
      const first = keyed(question, key);
      await writer.write(first);
      await conversations.delete(question.conversationId, UNRESTRICTED);
      const claim = { ...key, replaces: first.reply.uid };
      assert.equal(await writer.write({ reply: streaming(question), key: claim, worker: WORKER }), 'gone');
      assert.equal(await conversations.find(question.conversationId), null);
    });

    test('that is taken does not affect other units of the batch', async () => {
      const { writer, conversations } = open();
      const key = keyOf();
      await writer.write(keyed(userMessage(newId()), key));
      const [before, after] = [userMessage(newId()), userMessage(newId())];
      const outcomes = await Promise.all([
        writer.write({ start: startOf(before) }),
        writer.write(keyed(userMessage(newId()), key)),
        writer.write({ start: startOf(after) }),
      ]);
      assert.deepEqual(outcomes, ['saved', 'taken', 'saved']);
      for (const { conversationId } of [before, after]) {
        assert.equal((await contents(conversations, conversationId)).length, 1);
      }
    });
  });

  test('a repeated write changes nothing', async () => {
    const { conversations, writer } = open();
    const question = userMessage(newId());
    const start = startOf(question);
    const reply = replyTo(question);
    const units = [{ start }, { reply }, { start, reply }];
    for (const unit of units) await writer.write(unit);
    const before = await messagesOf(conversations, question.conversationId, 0, 10);
    for (const unit of units) assert.equal(await writer.write(unit), 'saved');
    const changed = { ...reply, content: 'something else' };
    assert.equal(await writer.write({ reply: changed }), 'saved');
    assert.deepEqual(await messagesOf(conversations, question.conversationId, 0, 10), before);
    await Promise.all([...units, ...units].map((unit) => writer.write(unit)));
    assert.deepEqual(await messagesOf(conversations, question.conversationId, 0, 10), before);
    assert.equal((await conversations.find(question.conversationId))?.lastActive, NOON + 1000);
  });

  describe('group commit', () => {
    function own(t: TestContext) {
      const knex = createKnex({ ...options, poolMin: 0, poolMax: 1, batches: true });
      t.after(() => knex.destroy());
      return { writer: new GroupCommitWriter(knex, silent), seen: watched(knex) };
    }

    test('puts writes that arrive together into one transaction', async (t) => {
      const { writer, seen } = own(t);
      await Promise.all(
        Array.from({ length: 50 }, () => writer.write({ start: startOf(userMessage(newId())) })),
      );
      assert.equal(seen.commits, 1);
    });

    test('puts writes that arrive during a commit into the next one, and bounds a transaction', async (t) => {
      const { writer, seen } = own(t);
      const write = () => writer.write({ start: startOf(userMessage(newId())) });
      const first = write();
      await new Promise(setImmediate);
      const rest = Array.from({ length: 250 }, write);
      await first;
      assert.equal(seen.commits, 1);
      await Promise.all(rest);
      assert.equal(seen.commits, 4, '1 alone, then 100, 100 and 50');
    });

    test('splits large replies over several statements', async (t) => {
      const { writer, seen } = own(t);
      const large = () => userMessage(newId(), { content: 'x'.repeat(700_000) });
      await Promise.all(
        [large(), large(), large()].map((message) => writer.write({ start: startOf(message) })),
      );
      assert.equal(seen.commits, 3);
    });

    test('keeps the order of messages in a conversation', async () => {
      const { conversations, writer } = open();
      const id = newId();
      const texts = Array.from({ length: 120 }, (_, index) => `${index}`);
      await Promise.all(
        texts.map((content) => writer.write({ start: startOf(userMessage(id, { content })) })),
      );
      assert.deepEqual(await contents(conversations, id), texts);
    });

    test('fails a bad row alone: the other rows are saved', async () => {
      const { conversations, writer } = open();
      const good = [1, 2, 3, 4].map(() => userMessage(newId()));
      const wrong = bad(userMessage(newId()));
      const messages = [...good.slice(0, 2), wrong, ...good.slice(2)];
      const settled = await Promise.allSettled(
        messages.map((message) => writer.write({ start: startOf(message) })),
      );
      assert.deepEqual(
        settled.map((result) => result.status),
        ['fulfilled', 'fulfilled', 'rejected', 'fulfilled', 'fulfilled'],
      );
      for (const { conversationId } of good) {
        assert.equal((await contents(conversations, conversationId)).length, 1);
      }
      assert.equal(await conversations.find(wrong.conversationId), null, 'nothing of the bad unit is left');
    });

    test('quotes no message in the error of a bad row', async () => {
      const { writer } = open();
      const message = bad(userMessage(newId(), { content: 'a secret question' }));
      await assert.rejects(writer.write({ start: startOf(message) }), (error: Error) => {
        const everything = [
          error.message,
          error.stack,
          JSON.stringify(error),
          JSON.stringify({ ...error }),
        ].join();
        assert.doesNotMatch(everything, /secret/);
        return true;
      });
    });

    test('resolves idle() when every write has succeeded or failed', async () => {
      const { writer, conversations } = open();
      const message = userMessage(newId());
      let settled = 0;
      for (const each of [message, bad(userMessage(newId()))]) {
        void writer.write({ start: startOf(each) }).then(
          () => settled++,
          () => settled++,
        );
      }
      await writer.idle();
      await Promise.resolve();
      assert.equal(settled, 2);
      assert.equal((await contents(conversations, message.conversationId)).length, 1);
    });

    test('is awaited by close(), and accepts nothing afterwards', async () => {
      const database = open();
      const message = userMessage(newId());
      const written = database.writer.write({ start: startOf(message) });
      await database.close();
      assert.equal(await written, 'saved');
      await assert.rejects(database.writer.write({ start: startOf(userMessage(newId())) }), {
        code: 'database_unavailable',
      });
      await assert.rejects(database.conversations.find(newId()), { code: 'database_unavailable' });
      assert.equal((await contents(open().conversations, message.conversationId)).length, 1);
    });

    test('works while every connection of the pool is busy', { timeout: 20_000 }, async () => {
      if (options.target.kind === 'sqlite') return; // one connection, which is busy for microseconds at a time
      const database = open({ poolMax: 2, acquireTimeoutMs: 1000 });
      const held = await Promise.all([database.knex.transaction(), database.knex.transaction()]);
      await assert.rejects(database.conversations.find(newId()), {
        code: 'database_unavailable',
        retryAfter: 2,
      });
      assert.equal(await database.writer.write({ start: startOf(userMessage(newId())) }), 'saved');
      await Promise.all(held.map((trx) => trx.rollback()));
    });
  });

  if (options.target.kind === 'mysql') {
    describe('concurrent locks on the same rows', () => {
      /** Until as many transactions as that wait for a lock. */
      async function waiting(knex: Knex, ids: readonly string[]): Promise<void> {
        for (;;) {
          const [rows] = await knex.raw(
            `SELECT trx_query AS query FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'`,
          );
          const mine = (row: { query: string | null }) => ids.some((id) => row.query?.includes(id));
          if (rows.some(mine)) return;
          // Asked more often than every 100 ms the server repeats its last answer.
          await delay(150);
        }
      }

      test('a transaction that loses a deadlock is repeated as a whole', { timeout: 20_000 }, async (t) => {
        const { conversations, knex } = open();
        const own = createKnex({ ...options, poolMin: 0, poolMax: 1, batches: true });
        t.after(() => own.destroy());
        const seen = watched(own);
        const writer = new GroupCommitWriter(own, silent);
        await own.raw('SET SESSION innodb_lock_wait_timeout = 20');
        const [low = '', high = ''] = [newId(), newId()].sort();
        const written: Promise<unknown>[] = [];
        await knex.transaction(async (trx) => {
          const row = { created_at: '2024-01-01 00:00:00.000', last_active: '2024-01-01 00:00:00.000' };
          // Many changed rows: InnoDB then chooses the other side as the victim.
          const rows = Array.from({ length: 200 }, () => ({ id: newId(), ...row }));
          await trx('conversations').insert([...rows, { id: high, ...row }]);
          for (const id of [low, high]) written.push(writer.write({ start: startOf(userMessage(id)) }));
          await waiting(knex, [high]);
          await trx('conversations').insert({ id: low, ...row });
        });
        assert.deepEqual(await Promise.all(written), ['saved', 'saved']);
        assert.equal(seen.errors[0], 'ER_LOCK_DEADLOCK');
        for (const id of [low, high]) assert.equal((await contents(conversations, id)).length, 1);
      });

      test('a reply waits for a running delete, and is then gone', {
        timeout: 20_000,
      }, async () => {
        const { conversations, writer, knex } = open();
        const question = userMessage(newId());
        await writer.write({ start: startOf(question) });
        let reply: Promise<unknown> = Promise.resolve();
        await knex.transaction(async (trx) => {
          await trx('conversations').where({ id: question.conversationId }).delete();
          reply = writer.write({ reply: replyTo(question) });
          await delay(50);
        });
        assert.equal(await reply, 'gone');
        assert.equal(await conversations.find(question.conversationId), null);
      });
    });
  }
});

eachDatabase((_name, open) => {
  test('of results of the same calls in one transaction, and after it, the first ones are stored', async () => {
    const { writer, conversations } = open();
    for (const [status, later] of [
      ['streaming', 'busy'],
      ['complete', 'answered'],
    ] as const) {
      const question = userMessage(newId());
      const calls = [{ id: 'c', type: 'function' as const, function: { name: 'f', arguments: '{}' } }];
      const asked = replyTo(question, { content: '', details: { tool_calls: calls } });
      await writer.write({ start: startOf(question), reply: asked });
      const answer = () => {
        const result = userMessage(question.conversationId, {
          role: 'tool',
          replyTo: asked.uid,
          details: { tool_call_id: 'c' },
        });
        const reply = replyTo(result, {
          status,
          ...(status === 'streaming' && { finishReason: null, content: '' }),
        });
        return writer.write({ start: startOf(result, { answers: asked.uid }), reply, worker: newId() });
      };
      assert.deepEqual(await Promise.all([answer(), answer()]), ['saved', later]);
      assert.equal(await answer(), later);
      assert.equal((await contents(conversations, question.conversationId)).length, 4);
    }
  });
});
