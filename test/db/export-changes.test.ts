/** Incremental exports: applied one after the other, they give the contents of the database. */
import assert from 'node:assert/strict';
import { before, describe, it, type TestContext } from 'node:test';
import fc from 'fast-check';
import { dialectOf } from '../../src/db/core/dialect.ts';
import type { Database } from '../../src/db/database.ts';
import { KnexExportSource } from '../../src/db/exports/reader.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { ExportFilter } from '../../src/domain/exports/exports.ts';
import { eachDatabase } from '../support/databases.ts';
import { store, stored, storedConversation } from '../support/export-data.ts';
import { rounds } from '../support/random.ts';
import { original } from '../support/replica.ts';
import { type Clock, clockOf, Follower, World } from './changes.ts';
import { newId, onStatement } from './fixtures.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const EVERYTHING: ExportFilter = { owner: null, from: null, to: null, role: null, status: null };

const KINDS = [
  ...['begin', 'go on', 'begin anew', 'replay', 'stream', 'stream', 'grow', 'grow', 'end', 'fail', 'stop'],
  ...['die', 'delete', 'purge', 'pass', 'pass'],
];
const step = fc.record({ kind: fc.constantFrom(...KINDS), n: fc.nat(120) });
const round = fc.record({
  before: fc.array(step, { maxLength: 12 }),
  during: fc.array(step, { maxLength: 6 }),
});

eachDatabase((_name, open) => {
  describe('exports of changes', () => {
    let database: Database;
    before(() => {
      database = open();
    });
    const empty = async () => {
      await database.knex('conversations').delete();
      await database.knex('deletions').delete();
    };
    const setUp = async (t: TestContext) => {
      await empty();
      const clock = clockOf(t);
      const world = new World(database, clock);
      const follower = new Follower(database, clock);
      const same = async () => assert.deepEqual(follower.replica.copy(), await original(database));
      return { clock, world, follower, same };
    };
    /** Long enough that what was there counts as settled. */
    const rest = ({ clock }: { clock: Clock }) => clock.pass(HOUR);

    it('make the same copy, whatever happens before and while they are made', async (t) => {
      const clock = clockOf(t);
      await fc.assert(
        fc.asyncProperty(fc.array(round, { minLength: 1, maxLength: 6 }), async (rounds) => {
          await empty();
          const world = new World(database, clock);
          const follower = new Follower(database, clock, 2);
          const play = async (steps: { kind: string; n: number }[]) => {
            for (const { kind, n } of steps) await world.do(kind, n);
          };
          for (const { before: quiet, during } of rounds) {
            await play(quiet);
            const left = [...during];
            await follower.follow(() => play(left.splice(0, 1)));
            await play(left);
            await follower.follow();
            assert.deepEqual(follower.replica.copy(), await original(database));
          }
        }),
        { numRuns: rounds(8, 200) },
      );
    });

    it('look at messages in windows, and at the conversations that changed, unless these are too many', async () => {
      await empty();
      const old = Date.UTC(2024, 0, 1);
      const many = Array.from({ length: 150 }, (_, n) => storedConversation(old + n, ['question', 'reply']));
      await store(database, many);
      // With pages of one message, 20 messages are a window and 140 conversations are remembered.
      const source = new KnexExportSource(database.knex, 1);
      const countSince = async (at: number) => source.count(await source.scope(EVERYTHING, null, 0, { at }));
      assert.deepEqual(await countSince(old - HOUR), { conversations: 150, messages: 300 });
      assert.deepEqual(await countSince(old + HOUR), { conversations: 0, messages: 0 });
      const changed = [0, 77, 149].map((n) => many[n]?.messages[1]?.uid ?? assert.fail());
      await database
        .knex('messages')
        .whereIn('uid', changed)
        .update({ updated_at: stored(old + 2 * HOUR) });
      let counted = 0;
      const stop = onStatement(database.knex, (sql) => {
        if (sql.includes('COUNT(DISTINCT')) counted += 1;
      });
      const found = await countSince(old + HOUR);
      stop();
      assert.deepEqual(found, { conversations: 3, messages: 3 });
      if (dialectOf(database.knex).pooled) assert.ok(counted <= 3, `${counted} statements`);
    });

    it('hold only what is new, once that has settled', async (t) => {
      const { clock, world, follower, same } = await setUp(t);
      for (let n = 0; n < 5; n += 1) await world.do('begin', n);
      rest({ clock });
      assert.deepEqual(await follower.follow(), { conversations: 5, messages: 10, deleted: 0 });
      assert.deepEqual(await follower.follow(), { conversations: 0, messages: 0, deleted: 0 });
      await world.do('go on', 3);
      assert.deepEqual(await follower.follow(), { conversations: 1, messages: 2, deleted: 0 });
      await same();
      rest({ clock });
      await follower.follow();
      assert.deepEqual(await follower.follow(), { conversations: 0, messages: 0, deleted: 0 });
    });

    it('have the end of a reply that was being written', async (t) => {
      const { clock, world, follower, same } = await setUp(t);
      await world.do('stream', 1);
      rest({ clock });
      await follower.follow();
      assert.match(JSON.stringify(follower.replica.copy()), /"first words".*"streaming"/);
      await world.do('grow', 5);
      await world.do('end', 1);
      assert.deepEqual(await follower.follow(), { conversations: 1, messages: 1, deleted: 0 });
      assert.match(JSON.stringify(follower.replica.copy()), /"first words and 5"/);
      await same();
    });

    it('have the end of a reply that was given up for dead, however late it comes', async (t) => {
      const { clock, world, follower, same } = await setUp(t);
      await world.do('stream', 1);
      await world.do('die', 0);
      rest({ clock });
      await world.do('begin', 1);
      rest({ clock });
      await follower.follow();
      rest({ clock });
      await world.do('end', 1);
      const { messages } = await follower.follow();
      assert.equal(messages, 1);
      await same();
    });

    it('do not have a reply before its first word, which may never come', async (t) => {
      const { clock, world, follower, same } = await setUp(t);
      await world.do('stream', 0);
      rest({ clock });
      assert.deepEqual(await follower.follow(), { conversations: 1, messages: 1, deleted: 0 });
      await world.do('fail', 0);
      await follower.follow();
      await same();
    });

    it('have what came out of a journal, however old it is', async (t) => {
      const { clock, world, follower, same } = await setUp(t);
      for (let n = 0; n < 2; n += 1) await world.do('begin', n);
      rest({ clock });
      await follower.follow();
      await world.do('replay', 0);
      await world.do('replay', 1);
      const { conversations, messages } = await follower.follow();
      assert.deepEqual([conversations, messages], [2, 4]);
      await same();
    });

    it('tell deletions before conversations, and a conversation that began anew as a whole', async (t) => {
      const { clock, world, follower, same } = await setUp(t);
      for (let n = 0; n < 3; n += 1) await world.do('begin', n);
      rest({ clock });
      await follower.follow();
      await world.do('delete', 0);
      await world.do('begin anew', 1);
      await world.do('purge', 30);
      const text = await follower.text();
      const lines = text
        .trimEnd()
        .split('\n')
        .map((one) => JSON.parse(one));
      assert.deepEqual(
        lines.map(({ deleted }) => deleted),
        [true, true, true, undefined],
      );
      follower.replica.apply(text);
      await same();
    });

    it('tell what began anew whenever they tell its deletion, although clocks of hosts differ', async (t) => {
      const { clock, world, follower, same } = await setUp(t);
      for (let n = 0; n < 2; n += 1) await world.do('begin', n);
      rest({ clock });
      await follower.follow();
      await world.do('begin anew', 0);
      await database.knex('deletions').update({ deleted_at: stored(clock.now() + 5 * MINUTE) });
      clock.pass(12 * MINUTE);
      for (let n = 0; n < 2; n += 1) {
        assert.deepEqual(await follower.follow(), { conversations: 1, messages: 2, deleted: 1 });
        await same();
      }
    });

    it('do not bring back what was deleted between two of them', async (t) => {
      const { clock, world, follower, same } = await setUp(t);
      rest({ clock });
      await follower.follow();
      await world.do('begin', 0);
      await world.do('delete', 0);
      assert.deepEqual(await follower.follow(), { conversations: 0, messages: 0, deleted: 1 });
      await same();
    });

    it('miss nothing that commits late', async (t) => {
      const { clock, world, follower, same } = await setUp(t);
      await world.do('begin', 0);
      rest({ clock });
      const late = open({ poolMax: 1 });
      const held = await late.knex.transaction();
      const id = newId();
      const time = stored(clock.now());
      await held('conversations').insert({ id, created_at: time, last_active: time });
      await held('messages').insert({
        ...{ uid: newId(), conversation_id: id, role: 'user', content: 'late', timestamp: time },
        ...{ status: 'complete', updated_at: time },
      });
      // On MySQL other transactions get higher row numbers meanwhile; SQLite has one writer at a time.
      if (late.describe().startsWith('MySQL')) for (let n = 0; n < 3; n += 1) await world.do('begin', n);
      clock.pass(5 * MINUTE);
      await follower.follow();
      assert.equal(follower.replica.copy()[id], undefined);
      await held.commit();
      await follower.follow();
      assert.equal(follower.replica.copy()[id]?.length, 1);
      await same();
    });

    it('have a conversation whose settings have changed, with one of its messages', async (t) => {
      const { clock, world, follower } = await setUp(t);
      for (let n = 0; n < 2; n += 1) await world.do('begin', n);
      const [id] = Object.keys(await original(database));
      assert.ok(id);
      for (const changes of [{ title: 'Renamed' }, { pinned: true }, { metadata: { topic: 'travel' } }]) {
        rest({ clock });
        await follower.text();
        assert.equal(await follower.text(), '');
        await database.conversations.update(id, UNRESTRICTED, {});
        assert.equal(await follower.text(), '', 'nothing has changed');
        await database.conversations.update(id, UNRESTRICTED, changes);
        const { messages, ...conversation } = JSON.parse(await follower.text());
        assert.equal(messages.length, 1);
        assert.deepEqual({ ...conversation, ...changes }, conversation);
      }
    });

    it('say the same in JSON', async (t) => {
      const { clock, world, follower } = await setUp(t);
      for (let n = 0; n < 4; n += 1) await world.do('begin', n);
      rest({ clock });
      await follower.follow();
      await world.do('delete', 0);
      await world.do('go on', 2);
      const json = JSON.parse(await follower.text('json'));
      const lines = (await follower.text())
        .trimEnd()
        .split('\n')
        .map((one) => JSON.parse(one));
      assert.deepEqual(json.conversations, lines);
      assert.deepEqual(json.summary, { conversations: 1, messages: 2, deleted: 1 });
      assert.match(json.metadata.filter.since, /^\d{4}-.*Z$/);
      // Nothing but deletions, and nothing at all, are JSON too.
      rest({ clock });
      await follower.text();
      await world.do('delete', 2);
      assert.equal(JSON.parse(await follower.text('json')).conversations.length, 1);
      rest({ clock });
      await follower.text();
      assert.deepEqual(JSON.parse(await follower.text('json')).conversations, []);
    });
  });
});
