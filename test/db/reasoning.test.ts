import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Database } from '../../src/db/database.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import { eachDatabase } from '../support/databases.ts';
import { HOUR, NOON, newId, replyTo, startOf, userMessage } from './fixtures.ts';

const WORKER = newId();
const STREAMING = { content: '', status: 'streaming', finishReason: null, usage: null } as const;
const BROKEN = { status: 'incomplete', finishReason: 'error' } as const;
const CALLS = [{ id: 'a', type: 'function', function: { name: 'f', arguments: '{}' } }] as const;

async function begin({ writer }: Database): Promise<Message> {
  const question = userMessage(newId());
  const reply = replyTo(question, { ...STREAMING, details: { wants_reasoning: true } });
  await writer.write({ start: startOf(question), reply, worker: WORKER });
  return reply;
}

const save = ({ writer }: Database, { uid, details }: Message, reasoning: string, content = '') =>
  writer.progress({
    uid,
    supersedes: details?.supersedes,
    worker: WORKER,
    after: (length) => content.slice(length),
    reasoningAfter: (length) => reasoning.slice(length),
  });

eachDatabase((_name, open) => {
  const stored = async (database: Database, { uid }: Message) => {
    const found = await database.replies.find(uid);
    if (!found) return undefined;
    const { status, reasoning, content, details } = found.message;
    return [found.superseded ? 'superseded' : status, reasoning, content, details];
  };

  test('reasoning and text grow together, and no repeated checkpoint is written twice', async () => {
    const database = open();
    const character = fc.constantFrom('a', 'é', '您', '🤔', '\n', '%', "'");
    const step = fc.tuple(fc.boolean(), fc.array(character, { maxLength: 5 }), fc.boolean());
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 6 }), async (steps) => {
        const reply = await begin(database);
        const texts = { reasoning: '', content: '' };
        const read = { reasoning: '', content: '' };
        for (const [isReasoning, characters, isRepeated] of steps) {
          texts[isReasoning ? 'reasoning' : 'content'] += characters.join('');
          // The confirmation of the first one was lost.
          for (let n = 0; n < (isRepeated ? 2 : 1); n++) {
            assert.equal(await save(database, reply, texts.reasoning, texts.content), 'saved');
          }
          const after = { reasoning: [...read.reasoning].length, content: [...read.content].length };
          const tail = await database.replies.tail(reply.uid, after);
          read.reasoning += tail?.reasoning ?? '';
          read.content += tail?.content ?? '';
          assert.deepEqual(read, texts);
        }
        const { reasoning, content } = texts;
        const asked = { wants_reasoning: true };
        assert.deepEqual(await stored(database, reply), ['streaming', reasoning || null, content, asked]);
        const end = {
          ...reply,
          reasoning: `${reasoning}!`,
          content: `${content}!`,
          status: 'complete',
        } as const;
        await database.writer.write({ reply: { ...end, finishReason: 'stop' }, worker: WORKER });
        assert.deepEqual(await stored(database, reply), ['complete', `${reasoning}!`, `${content}!`, asked]);
      }),
      { numRuns: 15 },
    );
  });

  test('the end of a reply has its calls; a stopped one keeps its reasoning', async () => {
    const database = open();
    const reply = await begin(database);
    const details = { wants_reasoning: true, tool_calls: CALLS } as const;
    const end = {
      ...reply,
      status: 'complete',
      finishReason: 'tool_calls',
      reasoning: 'Hm',
      details,
    } as const;
    await database.writer.write({ reply: end, worker: WORKER });
    assert.deepEqual(await stored(database, reply), ['complete', 'Hm', '', details]);
    const tail = await database.replies.tail(reply.uid, { content: 0, reasoning: 1 });
    assert.deepEqual([tail?.reasoning, tail?.details], ['m', details]);

    const other = await begin(database);
    await save(database, other, 'Hm');
    await database.replies.cancel(other.uid);
    assert.equal(await save(database, other, 'Hm more'), 'stopped');
    await database.writer.write({ reply: { ...other, ...BROKEN, reasoning: 'Hm more' }, worker: WORKER });
    assert.deepEqual((await stored(database, other))?.slice(0, 3), ['cancelled', 'Hm more', '']);
  });

  test('a failed reply is stored when it has reasoning, and only then', async () => {
    const database = open();
    for (const reasoning of ['Hm', null]) {
      const reply = await begin(database);
      if (reasoning) await save(database, reply, reasoning);
      await database.writer.write({ reply: { ...reply, ...BROKEN, reasoning }, worker: WORKER });
      assert.deepEqual(
        (await stored(database, reply))?.slice(0, 2),
        reasoning ? ['incomplete', 'Hm'] : undefined,
      );
    }
  });

  test('reasoning alone takes the place of no earlier reply, before the new one has ended', async () => {
    const database = open();
    const question = userMessage(newId());
    const first = replyTo(question);
    await database.writer.write({ start: startOf(question), reply: first });
    const revision = { by: UNRESTRICTED, expiredBefore: NOON - 24 * HOUR, message: undefined };
    const regenerate = async () => {
      const reply = replyTo(question, { ...STREAMING, details: { supersedes: question.uid } });
      await database.writer.write({ revision, reply, worker: WORKER });
      assert.equal(await save(database, reply, 'Hm'), 'saved');
      assert.equal((await stored(database, first))?.[0], 'complete');
      return reply;
    };
    const failed = await regenerate();
    await database.writer.write({ reply: { ...failed, ...BROKEN, reasoning: 'Hm' }, worker: WORKER });
    assert.equal(await stored(database, failed), undefined);
    assert.equal((await stored(database, first))?.[0], 'complete');
    const second = await regenerate();
    await save(database, second, 'Hm', 'new');
    assert.deepEqual((await stored(database, second))?.slice(0, 3), ['streaming', 'Hm', 'new']);
    assert.equal((await stored(database, first))?.[0], 'superseded');
  });
});
