import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createKnex } from '../../src/db/core/client.ts';
import { KnexPurgeStore } from '../../src/db/repositories/purge.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import { eachDatabase } from '../support/databases.ts';
import { HOUR, NOON, newId, purgeBatch, replyTo, startOf, userMessage, writeTurn } from './fixtures.ts';

eachDatabase((_name, open, options) => {
  const none = { conversations: 0, messages: 0 };

  /** A database with `old` expired conversations of one turn each, and an active one. */
  async function filled(old: number) {
    const database = open();
    await database.knex('conversations').delete();
    const ids = await Promise.all(
      Array.from(
        { length: old },
        async () => (await writeTurn(database.writer, userMessage(newId()))).conversationId,
      ),
    );
    const fresh = await writeTurn(database.writer, userMessage(newId(), { timestamp: NOON + HOUR }));
    return { ...database, ids, fresh: fresh.conversationId };
  }

  describe('purging', () => {
    test('counts expired conversations and changes nothing', async () => {
      const { purge } = await filled(3);
      const expected = { conversations: 3, messages: 6 };
      assert.deepEqual(await purge.countExpired(NOON + HOUR), expected);
      assert.deepEqual(await purge.countExpired(NOON + HOUR), expected);
      assert.deepEqual(await purge.countExpired(NOON), none);
    });

    test('deletes up to the limit with all messages, until nothing is left', async () => {
      const { purge, knex, conversations, fresh } = await filled(5);
      const cutoff = NOON + HOUR;
      assert.deepEqual(await purgeBatch(purge, cutoff, 2), { conversations: 2, messages: 4 });
      assert.deepEqual(await purgeBatch(purge, cutoff, 2), { conversations: 2, messages: 4 });
      assert.deepEqual(await purgeBatch(purge, cutoff, 2), { conversations: 1, messages: 2 });
      assert.deepEqual(await purgeBatch(purge, cutoff, 2), none);
      assert.ok(await conversations.find(fresh));
      const rows = await knex('messages').distinct('conversation_id').pluck('conversation_id');
      assert.deepEqual(rows, [fresh]);
    });

    test('keeps conversations active exactly at the cutoff', async () => {
      const { purge } = await filled(1);
      assert.deepEqual(await purgeBatch(purge, NOON + 1000, 10), none);
      assert.deepEqual(await purgeBatch(purge, NOON + 1001, 10), { conversations: 1, messages: 2 });
    });

    test('keeps a candidate that becomes active before the delete', async (t) => {
      const { ids, conversations } = await filled(2);
      const [active = '', idle = ''] = ids;
      const own = createKnex(options);
      t.after(() => own.destroy());
      own.on('query-response', (_response: unknown, { sql }: { sql: string }) => {
        if (options.target.kind === 'sqlite' && sql.startsWith('SELECT id, last_active, ')) {
          // Of the same library: two of them in one process break each other's locks on the file.
          const other = new own.client.driver(options.target.file);
          other
            .prepare('UPDATE conversations SET last_active = ? WHERE id = ?')
            .run('2024-03-22 00:00:00.000', active);
          other.close();
        }
      });
      const store = new KnexPurgeStore(own);
      if (options.target.kind === 'mysql') {
        const { knex } = open();
        let deleting: Promise<unknown> = Promise.resolve();
        await knex.transaction(async (trx) => {
          await trx('conversations').where({ id: active }).update({ last_active: '2024-03-22 00:00:00.000' });
          const chosen = new Promise((resolve) => own.once('query-response', resolve));
          deleting = purgeBatch(store, NOON + HOUR, 10);
          await chosen;
        });
        assert.deepEqual(await deleting, { conversations: 1, messages: 2 });
      } else {
        assert.deepEqual(await purgeBatch(store, NOON + HOUR, 10), { conversations: 1, messages: 2 });
      }
      assert.ok(await conversations.find(active));
      assert.equal(await conversations.find(idle), null);
    });

    for (const [what, change] of [
      ['a late message', (id: string) => ({ reply: replyTo(userMessage(id), { timestamp: NOON }) })],
      ['an updated reply', () => undefined],
    ] as const) {
      test(`does not delete a conversation that changed after its version was read: ${what}`, async () => {
        const { purge, ids, writer, knex, conversations } = await filled(2);
        const [changed = '', idle = ''] = ids;
        const cutoff = NOON + HOUR;
        const listed = async () => (await purge.candidates(cutoff, null, 10)).map(({ id }) => id);
        const candidates = await listed();
        assert.deepEqual(candidates.toSorted(), [changed, idle].sort());
        const versions = await purge.versions(candidates);
        const late = change(changed);
        if (late) {
          const message = { ...late.reply, replyTo: null, role: 'user' as const };
          await writer.write({ start: { ...startOf(message), expiredBefore: 0 } });
          await knex('conversations')
            .where({ id: changed })
            .update({ last_active: '2024-03-21 12:00:01.123' });
        } else {
          await knex('messages')
            .where({ conversation_id: changed, role: 'assistant' })
            .update({ content: 'more', updated_at: '2099-03-21 12:00:00.000' });
        }
        assert.equal((await purge.hide(candidates, cutoff, versions)).length, 1);
        assert.ok(await conversations.find(changed));
        assert.deepEqual(await listed(), [changed]);
        assert.equal((await purge.hide([changed], cutoff, await purge.versions([changed]))).length, 1);
        assert.equal(await conversations.find(changed), null);
      });
    }

    test('reads the version of a long conversation in pages: a change anywhere in it counts', async () => {
      const { purge, ids, knex } = await filled(3);
      const [first = '', long = '', last = ''] = ids.toSorted();
      const rows = Array.from({ length: 4500 }, () => ({
        uid: newId(),
        conversation_id: long,
        role: 'user',
        content: 'x',
        timestamp: '2024-03-21 12:00:00.000',
        status: 'complete',
        updated_at: '2024-03-21 12:00:00.000',
      }));
      for (let at = 0; at < rows.length; at += 90) await knex('messages').insert(rows.slice(at, at + 90));
      const before = await purge.versions([last, long, first]);
      assert.deepEqual(await purge.versions([first, long, last]), before);
      for (const at of [0, 1996, 2500, 4499]) {
        const change = { updated_at: `2027-03-21 12:00:00.${at % 999}` };
        const { uid } = rows[at] ?? assert.fail();
        await knex('messages').where({ uid }).update(change);
        const after = await purge.versions([first, long, last]);
        assert.notEqual(after.get(long), before.get(long), `row ${at}`);
        assert.deepEqual([after.get(first), after.get(last)], [before.get(first), before.get(last)]);
        await knex('messages').where({ uid }).update({ updated_at: '2024-03-21 12:00:00.000' });
      }
    });

    test('by two processes at the same time deletes each row once, without a visible deadlock', async () => {
      const { knex } = await filled(60);
      // Two connections of one process would wait for each other in SQLite, whose driver is synchronous.
      const other = options.target.kind === 'mysql' ? open().knex : knex;
      const stores = [new KnexPurgeStore(knex), new KnexPurgeStore(other)];
      const totals = await Promise.all(
        stores.map(async (store) => {
          let total = 0;
          while (total < 100) {
            const { conversations } = await purgeBatch(store, NOON + HOUR, 7);
            if (conversations === 0) return total;
            total += conversations;
          }
          return total;
        }),
      );
      assert.equal(
        totals.reduce((sum, total) => sum + total),
        60,
      );
      assert.equal(
        await knex('messages')
          .count({ n: '*' })
          .first()
          .then((row) => Number(row?.n)),
        2,
      );
    });
  });

  test('keeps conversations with a streaming reply, and finds the others', async () => {
    const { purge, writer, conversations, knex } = open();
    await knex('conversations').delete();
    const [growing, idle] = [userMessage(newId()), userMessage(newId())];
    const reply = replyTo(growing, { status: 'streaming', content: '', finishReason: null });
    await writer.write({ start: startOf(growing), reply, worker: newId() });
    await writeTurn(writer, idle);
    const removed = await purgeBatch(purge, NOON + 24 * HOUR, 2);
    assert.deepEqual(removed, { conversations: 1, messages: 2 });
    assert.equal(await conversations.find(idle.conversationId), null);
    assert.ok(await conversations.find(growing.conversationId));
    assert.deepEqual(await purgeBatch(purge, NOON + 24 * HOUR, 10), { conversations: 0, messages: 0 });
    await writer.write({ reply: { ...reply, status: 'complete', content: 'whole', finishReason: 'stop' } });
    assert.equal((await purgeBatch(purge, NOON + 24 * HOUR, 10)).conversations, 1);
  });

  test('records its deletions until they are forgotten', async () => {
    const { purge, writer, conversations, knex } = open();
    await knex('conversations').delete();
    await knex('deletions').delete();
    const [purged, deleted] = [userMessage(newId()), userMessage(newId())];
    for (const question of [purged, deleted]) await writeTurn(writer, question);
    await conversations.delete(deleted.conversationId, UNRESTRICTED);
    await purgeBatch(purge, NOON + HOUR, 10);
    const recorded = () => knex('deletions').orderBy('id').pluck('conversation_id');
    assert.deepEqual(await recorded(), [deleted.conversationId, purged.conversationId]);
    assert.equal(await purge.forgetDeletions(Date.now() - HOUR, 10), 0);
    assert.equal(await purge.forgetDeletions(Date.now() + HOUR, 1), 1);
    assert.deepEqual(await recorded(), [purged.conversationId]);
  });

  describe('the purge lock', () => {
    test('is released after the work, also when the work fails', async () => {
      const { purge } = open({ poolMax: 1 });
      const work = () => purge.countExpired(NOON);
      assert.ok(await purge.exclusively('purge', work));
      await assert.rejects(
        purge.exclusively('purge', () => Promise.reject(new Error('broken'))),
        /broken/,
      );
      assert.ok(await purge.exclusively('purge', work));
    });

    test('is not granted while the same process holds it', async () => {
      const { purge } = open();
      const fail = () => Promise.reject(new Error('must not run'));
      assert.deepEqual(
        await purge.exclusively('purge', async () => [await purge.exclusively('purge', fail)]),
        [null],
      );
    });

    test('is not granted while another process holds it', async () => {
      const [one, two] = [open(), open()];
      const fail = () => Promise.reject(new Error('must not run'));
      assert.deepEqual(
        await one.purge.exclusively('purge', async () => [await two.purge.exclusively('purge', fail)]),
        [null],
      );
      assert.equal(await two.purge.exclusively('purge', async () => 'ran'), 'ran');
    });
  });
});
