import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Knex } from 'knex';
import { closeHistories } from '../../src/db/workers/histories.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { TurnWriter, WriteOutcome } from '../../src/domain/chat/turns.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import { historyStart, storedForm } from '../../src/domain/conversations/history.ts';
import { hashOf } from '../../src/util/hash-chain.ts';
import { eachDatabase } from '../support/databases.ts';
import { type Random, randomised } from '../support/random.ts';
import { newId, replyTo, startOf, userMessage } from './fixtures.ts';

const WORKER = newId();
const ADA = { user: 'ada' };

function streaming(question: Message): Message {
  return replyTo(question, { content: '', status: 'streaming', finishReason: null, usage: null });
}

function ended(begun: Message, over: Partial<Message> = {}): Message {
  return { ...begun, content: `reply ${begun.uid}`, status: 'complete', finishReason: 'stop', ...over };
}

async function historyOf(knex: Knex, id: string) {
  const [row] = await knex('conversations')
    .where({ id })
    .select('history_hash', 'history_open', 'history_reply');
  return row ?? assert.fail('no conversation');
}

/** The hash of the visible messages, as a client would make it. */
async function expected(knex: Knex, id: string): Promise<string> {
  const rows = await knex('messages')
    .where({ conversation_id: id })
    .whereNot({ status: 'superseded' })
    .orderBy('id')
    .select('role', 'content', 'details');
  const forms = rows.map(({ role, content, details }) =>
    storedForm({ role: role as Message['role'], content, details: details && JSON.parse(details) }),
  );
  return hashOf([...historyStart(null, 'ada', null), ...forms.filter((form) => form !== undefined)]);
}

eachDatabase((_name, open) => {
  test('the hash of a conversation is that of its messages after every turn', async () => {
    const { knex, writer } = open();
    const question = userMessage(newId());
    const { conversationId: id } = question;
    const reply = streaming(question);
    const start = startOf(question, ADA);
    await writer.write({ start, reply, worker: WORKER });
    assert.equal((await historyOf(knex, id)).history_hash, null);
    await writer.write({ reply: ended(reply), worker: WORKER });
    assert.equal((await historyOf(knex, id)).history_hash, await expected(knex, id));

    // The whole turn in one write, and a confirmation that was lost.
    const next = userMessage(id);
    const unit = { start: startOf(next, ADA), reply: ended(streaming(next)) };
    for (let time = 0; time < 2; time++) {
      await writer.write(unit);
      assert.equal((await historyOf(knex, id)).history_hash, await expected(knex, id));
    }

    // A reply that failed before its first text.
    const last = userMessage(id);
    const failing = streaming(last);
    await writer.write({ start: startOf(last, ADA), reply: failing, worker: WORKER });
    const failed = ended(failing, { content: '', status: 'incomplete', finishReason: 'error' });
    await writer.write({ reply: failed, worker: WORKER });
    assert.equal((await historyOf(knex, id)).history_hash, await expected(knex, id));
  });

  test('a turn that is replayed after it was stored changes nothing', async () => {
    const { knex, writer } = open();
    const units = [userMessage(newId())].flatMap((first) => {
      const next = userMessage(first.conversationId);
      return [first, next].map((question, at) => {
        const start = startOf(question, { ...ADA, named: at > 0 });
        return { start, reply: ended(streaming(question)), worker: WORKER };
      });
    });
    const id = units[0]?.start.conversationId ?? '';
    for (const unit of units) await writer.write(unit);
    for (const unit of units) await writer.write({ ...unit, replayed: true });
    assert.equal((await historyOf(knex, id)).history_hash, await expected(knex, id));
  });

  test('an imported conversation has the hash of its own messages, unless it is long', async () => {
    const { knex, writer, imports } = open();
    const question = userMessage(newId());
    const { conversationId: id, timestamp } = question;
    await writer.write({ start: startOf(question, ADA), reply: ended(streaming(question)) });
    const settings = {
      title: null,
      user: 'ada',
      metadata: null,
      system: null,
      model: null,
      parameters: null,
    };
    const times = { createdAt: timestamp, lastActive: timestamp };
    for (const isLong of [false, true]) {
      const old = userMessage(id, { content: 'superseded', status: 'superseded' });
      const messages = [old, userMessage(id, { content: 'another question' })].map((message) => ({
        ...message,
        feedback: null,
      }));
      const results = await imports.write([{ id, ...times, pinned: false, settings, messages, isLong }], {
        owner: null,
        replace: true,
        replacesOwner: false,
      });
      assert.deepEqual(results, [{ outcome: 'replaced', messages: 2 }]);
      const history = { history_open: null, history_reply: null };
      const history_hash = isLong ? null : await expected(knex, id);
      assert.deepEqual({ ...(await historyOf(knex, id)) }, { ...history, history_hash });
    }
  });

  test('a reply that no process will end is part of the history, and so is its end after all', async () => {
    const { knex, writer } = open();
    const question = userMessage(newId());
    const { conversationId: id } = question;
    const reply = streaming(question);
    await writer.write({ start: startOf(question, ADA), reply, worker: WORKER });
    await writer.progress({
      uid: reply.uid,
      worker: WORKER,
      after: (length) => 'so far'.slice(length),
      reasoningAfter: () => '',
    });
    await knex('messages').where({ uid: reply.uid }).update({ status: 'incomplete', worker: null });
    for (let time = 0; time < 2; time++) {
      await closeHistories(knex, [reply.uid, newId()]);
      assert.equal((await historyOf(knex, id)).history_hash, await expected(knex, id));
    }
    await writer.write({ reply: ended(reply), worker: WORKER });
    assert.equal((await historyOf(knex, id)).history_hash, await expected(knex, id));
  });

  test('of turns that expect the same history one is written', async () => {
    const { knex, writer } = open();
    const question = userMessage(newId());
    const { conversationId: id } = question;
    await writer.write({
      start: startOf(question, { ...ADA, named: false }),
      reply: ended(streaming(question)),
    });
    const expects = await expected(knex, id);
    const begin = async () => {
      const message = userMessage(id);
      const unit = { start: startOf(message, ADA), reply: streaming(message), worker: WORKER, expects };
      return { unit, outcome: await writer.write(unit) };
    };
    const turns = await Promise.all([begin(), begin(), begin()]);
    const outcomes = turns.map(({ outcome }) => outcome).sort();
    assert.deepEqual(outcomes, ['moved', 'moved', 'saved'] satisfies WriteOutcome[]);
    // Repeated, because its confirmation was lost.
    const winner = turns.find(({ outcome }) => outcome === 'saved')?.unit ?? assert.fail('none');
    assert.equal(await writer.write(winner), 'saved');
    const [row] = await knex('messages').where({ conversation_id: id }).count({ count: '*' });
    assert.equal(Number(row?.count), 4);
    const unknown = userMessage(newId());
    const none = { start: startOf(unknown), reply: streaming(unknown), worker: WORKER, expects };
    assert.equal(await writer.write(none), 'moved');
  });

  test(
    'the hash is never wrong, whatever happens in which order',
    randomised(async (random) => {
      const { knex, writer } = open();
      const id = newId();
      const running: Message[] = [];
      for (let step = 0; step < 40; step++) {
        await act(random, writer, id, running);
        const { history_hash: hash } = await historyOf(knex, id);
        if (hash !== null) assert.equal(hash, await expected(knex, id), `step ${step}`);
      }
    }),
  );
});

/** Begins a turn, or ends, cuts or fails one that runs; with some, several run at the same time. */
async function act(random: Random, writer: TurnWriter, id: string, running: Message[]): Promise<void> {
  const isBusy = running.length > 0;
  if (!isBusy || random.chance(0.05)) {
    const question = userMessage(id, { content: `question ${random.int(0, 9)}` });
    const reply = streaming(question);
    const start = startOf(question, { ...ADA, by: UNRESTRICTED });
    if (random.chance(0.3)) await writer.write({ start, reply: ended(reply) });
    else {
      await writer.write({ start, reply, worker: WORKER });
      running.push(reply);
    }
    return;
  }
  const [reply] = running.splice(random.int(0, running.length - 1), 1);
  if (!reply) return;
  const ends: Partial<Message>[] = [
    {},
    { content: '', status: 'incomplete', finishReason: 'error' },
    { content: 'half', status: 'incomplete', finishReason: 'error' },
    { content: '', status: 'cancelled', finishReason: 'cancelled' },
  ];
  const unit = { reply: ended(reply, random.pick(ends)), worker: WORKER };
  await writer.write(unit);
  if (random.chance(0.2)) await writer.write(unit);
}
