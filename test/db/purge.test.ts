import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createKnex } from '../../src/db/core/client.ts';
import { KnexPurgeStore } from '../../src/db/repositories/purge.ts';
import { UNRESTRICTED } from '../../src/domain/access.ts';
import { eachDatabase } from '../support/databases.ts';
import { HOUR, NOON, newId, replyTo, startOf, userMessage, writeTurn } from './fixtures.ts';

eachDatabase((_name, open, options) => {
  const none = { conversations: 0, messages: 0 };

  /** An empty database with `old` expired conversations of one turn each, and one that is in use. */
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
    test('counts what is expired and changes nothing', async () => {
      const { purge } = await filled(3);
      const expected = { conversations: 3, messages: 6 };
      assert.deepEqual(await purge.countExpired(NOON + HOUR), expected);
      assert.deepEqual(await purge.countExpired(NOON + HOUR), expected);
      assert.deepEqual(await purge.countExpired(NOON), none);
    });

    test('deletes at most so many at a time, with their messages, until nothing is left', async () => {
      const { purge, knex, conversations, fresh } = await filled(5);
      const cutoff = NOON + HOUR;
      assert.deepEqual(await purge.deleteExpired(cutoff, 2), { conversations: 2, messages: 4 });
      assert.deepEqual(await purge.deleteExpired(cutoff, 2), { conversations: 2, messages: 4 });
      assert.deepEqual(await purge.deleteExpired(cutoff, 2), { conversations: 1, messages: 2 });
      assert.deepEqual(await purge.deleteExpired(cutoff, 2), none);
      assert.ok(await conversations.find(fresh));
      const rows = await knex('messages').distinct('conversation_id').pluck('conversation_id');
      assert.deepEqual(rows, [fresh]);
    });

    test('spares what was active exactly at the cutoff', async () => {
      const { purge } = await filled(1);
      assert.deepEqual(await purge.deleteExpired(NOON + 1000, 10), none);
      assert.deepEqual(await purge.deleteExpired(NOON + 1001, 10), { conversations: 1, messages: 2 });
    });

    test('spares a conversation that becomes active after it was chosen', async (t) => {
      const { ids, conversations } = await filled(2);
      const [active = '', idle = ''] = ids;
      const own = createKnex(options);
      t.after(() => own.destroy());
      own.on('query-response', (_response: unknown, { sql }: { sql: string }) => {
        if (options.target.kind === 'sqlite' && sql.startsWith('select `id`')) {
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
          deleting = store.deleteExpired(NOON + HOUR, 10);
          await chosen;
        });
        assert.deepEqual(await deleting, { conversations: 1, messages: 2 });
      } else {
        assert.deepEqual(await store.deleteExpired(NOON + HOUR, 10), { conversations: 1, messages: 2 });
      }
      assert.ok(await conversations.find(active));
      assert.equal(await conversations.find(idle), null);
    });

    test('hands over what it is going to delete before it does, and deletes nothing when that fails', async () => {
      const { purge, ids, knex } = await filled(3);
      const cutoff = NOON + HOUR;
      const rows = () => knex('messages').pluck('uid');
      const all = await rows();
      const full = Object.assign(new Error('no space'), { code: 'ENOSPC' });
      await assert.rejects(
        purge.deleteExpired(cutoff, 10, () => Promise.reject(full)),
        full,
      );
      assert.deepEqual(await rows(), all);
      const kept: string[] = [];
      const removed = await purge.deleteExpired(cutoff, 10, async (batch) => {
        kept.push(...batch);
        assert.equal((await rows()).length, all.length, 'nothing is deleted, and no transaction is open');
      });
      assert.deepEqual(removed, { conversations: 3, messages: 6 });
      assert.deepEqual(kept.sort(), [...ids].sort());
    });

    for (const [what, change] of [
      ['a late message', (id: string) => ({ reply: replyTo(userMessage(id), { timestamp: NOON }) })],
      ['a reply that was written on', () => undefined],
    ] as const) {
      test(`spares for now what changed after it was handed over: ${what}`, async () => {
        const { purge, ids, writer, knex, conversations } = await filled(2);
        const [changed = '', idle = ''] = ids;
        const handed: string[][] = [];
        const keep = async (batch: readonly string[]) => {
          handed.push([...batch].sort());
          if (handed.length > 1) return;
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
              .update({ content: 'more', updated_at: '2026-03-21 12:00:00.000' });
          }
        };
        assert.equal((await purge.deleteExpired(NOON + HOUR, 10, keep)).conversations, 1);
        assert.deepEqual(handed, [[changed, idle].sort()]);
        assert.ok(await conversations.find(changed));
        assert.equal((await purge.deleteExpired(NOON + HOUR, 10, keep)).conversations, 1);
        assert.deepEqual(handed[1], [changed]);
        assert.equal(await conversations.find(changed), null);
      });
    }

    test('by two at once deletes each row once, and no deadlock comes to the surface', async () => {
      const { knex } = await filled(60);
      // Two connections of one process would wait for each other in SQLite, whose driver is synchronous.
      const other = options.target.kind === 'mysql' ? open().knex : knex;
      const stores = [new KnexPurgeStore(knex), new KnexPurgeStore(other)];
      const totals = await Promise.all(
        stores.map(async (store) => {
          let total = 0;
          while (total < 100) {
            const { conversations } = await store.deleteExpired(NOON + HOUR, 7);
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

  test('leaves a conversation alone that a reply is being written to, and finds the others', async () => {
    const { purge, writer, conversations, knex } = open();
    await knex('conversations').delete();
    const [growing, idle] = [userMessage(newId()), userMessage(newId())];
    const reply = replyTo(growing, { status: 'streaming', content: '', finishReason: null });
    await writer.write({ start: startOf(growing), reply, worker: newId() });
    await writeTurn(writer, idle);
    const removed = await purge.deleteExpired(NOON + 24 * HOUR, 1);
    assert.deepEqual(removed, { conversations: 1, messages: 2 });
    assert.equal(await conversations.find(idle.conversationId), null);
    assert.ok(await conversations.find(growing.conversationId));
    assert.deepEqual(await purge.deleteExpired(NOON + 24 * HOUR, 10), { conversations: 0, messages: 0 });
    await writer.write({ reply: { ...reply, status: 'complete', content: 'whole', finishReason: 'stop' } });
    assert.equal((await purge.deleteExpired(NOON + 24 * HOUR, 10)).conversations, 1);
  });

  test('notes what it deletes, until that is forgotten', async () => {
    const { purge, writer, conversations, knex } = open();
    await knex('conversations').delete();
    await knex('deletions').delete();
    const [purged, deleted] = [userMessage(newId()), userMessage(newId())];
    for (const question of [purged, deleted]) await writeTurn(writer, question);
    await conversations.delete(deleted.conversationId, UNRESTRICTED);
    await purge.deleteExpired(NOON + HOUR, 10);
    const noted = () => knex('deletions').orderBy('id').pluck('conversation_id');
    assert.deepEqual(await noted(), [deleted.conversationId, purged.conversationId]);
    assert.equal(await purge.forgetDeletions(Date.now() - HOUR, 10), 0);
    assert.equal(await purge.forgetDeletions(Date.now() + HOUR, 1), 1);
    assert.deepEqual(await noted(), [purged.conversationId]);
  });

  describe('exclusively', () => {
    test('runs the work and lets go afterwards, also when the work fails', async () => {
      const { purge } = open({ poolMax: 1 });
      let runs = 0;
      const work = async () => {
        runs += 1;
        await purge.countExpired(NOON);
      };
      assert.equal(await purge.exclusively(work), true);
      await assert.rejects(
        purge.exclusively(() => Promise.reject(new Error('broken'))),
        /broken/,
      );
      assert.equal(await purge.exclusively(work), true);
      assert.equal(runs, 2);
    });

    test('does not run while the same process purges', async () => {
      const { purge } = open();
      let inner: boolean | undefined;
      await purge.exclusively(async () => {
        inner = await purge.exclusively(() => Promise.reject(new Error('must not run')));
      });
      assert.equal(inner, false);
    });

    test('does not run while another process purges', async () => {
      const [one, two] = [open(), open()];
      let inner: boolean | undefined;
      const outer = await one.purge.exclusively(async () => {
        inner = await two.purge.exclusively(() => Promise.reject(new Error('must not run')));
      });
      assert.deepEqual([outer, inner], [true, false]);
      assert.equal(await two.purge.exclusively(async () => {}), true);
    });
  });
});
