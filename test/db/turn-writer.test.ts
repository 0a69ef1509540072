import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Knex } from 'knex';
import { createKnex } from '../../src/db/client.ts';
import { GroupCommitWriter } from '../../src/db/turn-writer.ts';
import type { Message } from '../../src/domain/conversation.ts';
import { eachDatabase, silent } from '../support/databases.ts';
import { contents, HOUR, NOON, newId, replyTo, startOf, userMessage, writeTurn } from './fixtures.ts';

/** The commits, and the codes of the errors, that go through a Knex instance. */
function watched(knex: Knex): { commits: number; errors: unknown[] } {
  const seen = { commits: 0, errors: [] as unknown[] };
  knex.on('query', ({ sql }: { sql: string }) => {
    if (/\bCOMMIT;?$/.test(sql)) seen.commits += 1;
  });
  knex.on('query-error', ({ code }: { code: unknown }) => seen.errors.push(code));
  return seen;
}

/** A role that no schema takes, as a bad row. */
const bad = (message: Message): Message => ({ ...message, role: 'robot' as 'user' });

eachDatabase((_name, open, options) => {
  describe('a start', () => {
    test('of an id that nobody knows begins a conversation', async () => {
      const { conversations, writer } = open();
      const question = userMessage(newId());
      assert.equal(await writer.write({ start: startOf(question, { named: false }) }), 'saved');
      assert.equal((await conversations.find(question.conversationId))?.lastActive, NOON);
    });

    test('goes on with a conversation that was active until the limit', async () => {
      const { conversations, writer } = open();
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      const next = userMessage(conversationId, { timestamp: NOON + 25 * HOUR });
      await writer.write({ start: startOf(next, { expiredBefore: NOON + 1000 }) });
      assert.equal((await contents(conversations, conversationId)).length, 3);
      assert.equal((await conversations.find(conversationId))?.createdAt, NOON);
    });

    test('begins an expired conversation anew: the old messages go first', async () => {
      const { conversations, writer } = open();
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      const next = userMessage(conversationId, { content: 'again', timestamp: NOON + 25 * HOUR });
      await writer.write({ start: startOf(next, { expiredBefore: NOON + 1001 }) });
      assert.deepEqual(await contents(conversations, conversationId), ['again']);
      assert.equal((await conversations.find(conversationId))?.createdAt, NOON + 25 * HOUR);
    });

    test('of two at once begins an expired conversation anew once', async () => {
      const { conversations, writer } = open();
      const { conversationId } = await writeTurn(writer, userMessage(newId()));
      const timestamp = NOON + 25 * HOUR;
      const next = ['one', 'two'].map((content) => userMessage(conversationId, { content, timestamp }));
      await Promise.all(next.map((message) => writer.write({ start: startOf(message) })));
      assert.deepEqual(await contents(conversations, conversationId), ['one', 'two']);
    });
  });

  describe('a reply', () => {
    test('is gone, and brings nothing back, when its conversation was deleted', async () => {
      const { conversations, writer, knex } = open();
      const question = userMessage(newId());
      await writer.write({ start: startOf(question) });
      await conversations.delete(question.conversationId);
      assert.equal(await writer.write({ reply: replyTo(question) }), 'gone');
      assert.equal(await conversations.find(question.conversationId), null);
      assert.deepEqual(await knex('messages').where({ conversation_id: question.conversationId }), []);
    });

    test('is gone when its conversation began anew, which it does not touch', async () => {
      const { conversations, writer } = open();
      const question = userMessage(newId());
      const { conversationId } = question;
      await writer.write({ start: startOf(question) });
      await conversations.delete(conversationId);
      await writer.write({ start: startOf(userMessage(conversationId, { content: 'new' })) });
      const late = replyTo(question, { timestamp: NOON + HOUR });
      assert.equal(await writer.write({ reply: late }), 'gone');
      assert.deepEqual(await contents(conversations, conversationId), ['new']);
      assert.equal((await conversations.find(conversationId))?.lastActive, NOON);
    });

    test('is gone when it answers a message of another conversation, or none', async () => {
      const { writer } = open();
      const question = await writeTurn(writer, userMessage(newId()));
      const other = await writeTurn(writer, userMessage(newId()));
      const stray = { ...replyTo(question), conversationId: other.conversationId };
      assert.equal(await writer.write({ reply: stray }), 'gone');
      assert.equal(await writer.write({ reply: replyTo(question, { replyTo: null }) }), 'gone');
    });

    test('that follows at once, in the same transaction, finds its question', async () => {
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

  test('a write that is repeated changes nothing', async () => {
    const { conversations, writer } = open();
    const question = userMessage(newId());
    const start = startOf(question);
    const reply = replyTo(question);
    const units = [{ start }, { reply }, { start, reply }];
    for (const unit of units) await writer.write(unit);
    const before = await conversations.messages(question.conversationId, 0, 10);
    for (const unit of units) assert.equal(await writer.write(unit), 'saved');
    const changed = { ...reply, content: 'something else' };
    assert.equal(await writer.write({ reply: changed }), 'saved');
    assert.deepEqual(await conversations.messages(question.conversationId, 0, 10), before);
    await Promise.all([...units, ...units].map((unit) => writer.write(unit)));
    assert.deepEqual(await conversations.messages(question.conversationId, 0, 10), before);
    assert.equal((await conversations.find(question.conversationId))?.lastActive, NOON + 1000);
  });

  describe('group commit', () => {
    function own(t: TestContext) {
      const knex = createKnex({ ...options, poolMin: 0, poolMax: 1, batches: true });
      t.after(() => knex.destroy());
      return { writer: new GroupCommitWriter(knex, silent), seen: watched(knex) };
    }

    test('puts what is handed in together into one transaction', async (t) => {
      const { writer, seen } = own(t);
      await Promise.all(
        Array.from({ length: 50 }, () => writer.write({ start: startOf(userMessage(newId())) })),
      );
      assert.equal(seen.commits, 1);
    });

    test('puts what comes during a commit into the next one, and bounds a transaction', async (t) => {
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

    test('keeps large replies out of one statement', async (t) => {
      const { writer, seen } = own(t);
      const large = () => userMessage(newId(), { content: 'x'.repeat(700_000) });
      await Promise.all(
        [large(), large(), large()].map((message) => writer.write({ start: startOf(message) })),
      );
      assert.equal(seen.commits, 3);
    });

    test('keeps the order in which messages of a conversation were handed in', async () => {
      const { conversations, writer } = open();
      const id = newId();
      const texts = Array.from({ length: 120 }, (_, index) => `${index}`);
      await Promise.all(
        texts.map((content) => writer.write({ start: startOf(userMessage(id, { content })) })),
      );
      assert.deepEqual(await contents(conversations, id), texts);
    });

    test('fails one bad row alone: its neighbours are saved', async () => {
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

    test('says nothing of a message in the error of a bad row', async () => {
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

    test('resolves idle() when everything is settled', async () => {
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

    test('is waited for by close(), and takes nothing afterwards', async () => {
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

    test('goes on while every connection of the pool is busy', { timeout: 20_000 }, async () => {
      if (options.target.kind === 'sqlite') return; // one connection, which is busy for microseconds at a time
      const database = open({ poolMax: 2, acquireTimeoutMs: 300 });
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
    describe('against others who lock the same rows', () => {
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

      test('a transaction that loses a deadlock is run again as a whole', { timeout: 20_000 }, async (t) => {
        const { conversations, knex } = open();
        const own = createKnex({ ...options, poolMin: 0, poolMax: 1, batches: true });
        t.after(() => own.destroy());
        const seen = watched(own);
        const writer = new GroupCommitWriter(own, silent);
        const [low = '', high = ''] = [newId(), newId()].sort();
        for (const id of [low, high]) await writeTurn(writer, userMessage(id));
        const written: Promise<unknown>[] = [];
        await knex.transaction(async (trx) => {
          // Many changed rows: InnoDB then chooses the other side as the victim.
          const rows = Array.from({ length: 200 }, () => ({
            id: newId(),
            created_at: '2024-01-01 00:00:00.000',
            last_active: '2024-01-01 00:00:00.000',
          }));
          await trx('conversations').insert(rows);
          await trx('conversations').where({ id: high }).forUpdate().select('id');
          for (const id of [low, high]) written.push(writer.write({ start: startOf(userMessage(id)) }));
          await waiting(knex, [high]);
          await trx('conversations').where({ id: low }).forUpdate().select('id');
        });
        assert.deepEqual(await Promise.all(written), ['saved', 'saved']);
        assert.deepEqual(seen.errors, ['ER_LOCK_DEADLOCK']);
        for (const id of [low, high]) assert.equal((await contents(conversations, id)).length, 3);
      });

      test('a reply waits for a delete that is under way, and is then gone', {
        timeout: 20_000,
      }, async () => {
        const { conversations, writer, knex } = open();
        const question = userMessage(newId());
        await writer.write({ start: startOf(question) });
        let reply: Promise<unknown> = Promise.resolve();
        await knex.transaction(async (trx) => {
          await trx('conversations').where({ id: question.conversationId }).delete();
          reply = writer.write({ reply: replyTo(question) });
          await waiting(knex, [question.conversationId]);
        });
        assert.equal(await reply, 'gone');
        assert.equal(await conversations.find(question.conversationId), null);
      });

      test('a lock that is not given up makes the write fail as unavailable', {
        timeout: 60_000,
      }, async () => {
        const { writer, knex } = open();
        const { conversationId } = await writeTurn(writer, userMessage(newId()));
        await knex.transaction(async (trx) => {
          await trx('conversations').where({ id: conversationId }).forUpdate().select('id');
          const write = writer.write({ start: startOf(userMessage(conversationId)) });
          await assert.rejects(write, { code: 'database_unavailable' });
        });
      });
    });
  }
});
