/** The order of messages does not follow from their row numbers, which servers can hand out in any order. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import type { Knex } from 'knex';
import { select } from '../../src/db/core/errors.ts';
import {
  FIRST,
  LAST,
  type MessageRange,
  messageOrder,
  positionOf,
  rangesBetween,
  slicesBetween,
} from '../../src/db/core/order.ts';
import type { Database } from '../../src/db/database.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import type { ExportFilter } from '../../src/domain/exports/exports.ts';
import { eachDatabase } from '../support/databases.ts';
import { insertRows } from '../support/export-data.ts';
import { contents, HOUR, NOON, newId, replyTo, startOf, userMessage } from './fixtures.ts';

const EVERYTHING: ExportFilter = { owner: null, from: null, to: null, role: null, status: null };
const ALL = { newestFirst: false, superseded: true };
const WORKER = newId();
type Row = Parameters<typeof positionOf>[0];

/** Each row gets a lower number than the one before. */
async function countDown(knex: Knex): Promise<void> {
  await knex.raw('CREATE TABLE row_numbers (n BIGINT NOT NULL)');
  await knex.raw('INSERT INTO row_numbers VALUES (1000000)');
  await knex.raw(`CREATE TRIGGER descending BEFORE INSERT ON messages FOR EACH ROW BEGIN
    UPDATE row_numbers SET n = n - 7; SET NEW.id = (SELECT n FROM row_numbers); END`);
}

/** A question and its reply for each number. */
function turnsOf(id: string, numbers: readonly number[]): [Message, Message][] {
  return numbers.map((n) => {
    const question = userMessage(id, { content: `q${n}` });
    return [question, replyTo(question, { content: `a${n}` })];
  });
}

async function write(databases: readonly Database[], turns: readonly [Message, Message][]): Promise<void> {
  for (const [n, [question, reply]] of turns.entries()) {
    const database = databases[n % databases.length];
    assert.equal(await database?.writer.write({ start: startOf(question), reply }), 'saved');
  }
}

/** As a version without `seq` stored them. */
async function insertOld(
  { knex }: Database,
  id: string,
  turns: readonly [Message, Message][],
): Promise<void> {
  const time = '2024-03-21 12:00:00.123';
  await knex('conversations').insert({ id, created_at: time, last_active: time });
  const rows = turns.flat().map(({ uid, role, content, replyTo }) => ({
    ...{ uid, conversation_id: id, role, content, timestamp: time, updated_at: time, status: 'complete' },
    ...{ length: content.length, ...(replyTo && { reply_to: replyTo }) },
  }));
  for (const row of rows) await insertRows(knex, 'messages', [row]);
}

async function found({ conversations }: Database, id: string) {
  return (await conversations.find(id)) ?? assert.fail('no conversation');
}

/** Pages of three messages. */
async function pages(database: Database, id: string, newestFirst: boolean): Promise<string[]> {
  const conversation = await found(database, id);
  const read: string[] = [];
  for (let seq = 0; ; ) {
    const view = { newestFirst, superseded: false };
    const { messages, hasMore } = await database.conversations.messages(conversation, seq, 3, 1e6, view);
    read.push(...messages.map(({ content }) => content));
    seq = messages.at(-1)?.seq ?? 0;
    if (!hasMore) return read;
  }
}

async function exported(database: Database, id: string, since?: { readonly at: number }): Promise<string[]> {
  const read: string[] = [];
  const scope = await database.exports.scope(EVERYTHING, id, 0, since);
  for await (const { parts } of database.exports.read(scope)) {
    for (const { messages } of parts) {
      read.push(...messages.filter(({ status }) => status !== 'superseded').map(({ content }) => content));
    }
  }
  return read;
}

async function fork(database: Database, id: string, until: number | null): Promise<string[]> {
  const source = await found(database, id);
  const wanted = { source, id: newId(), until, title: null, at: NOON };
  assert.equal(await database.forks.fork(wanted), 'forked');
  return contents(database.conversations, wanted.id);
}

async function outline(database: Database, id: string) {
  const head = { ...(await found(database, id)), title: null, size: 0 };
  const [view] = (await database.conversations.outlines([head])).values();
  return { title: view?.title, last: view?.lastMessage?.preview };
}

/** Everything that reads messages in their order has them in this one. */
async function assertOrder(database: Database, id: string, expected: readonly string[]): Promise<void> {
  assert.deepEqual(await pages(database, id, false), expected, 'oldest first');
  assert.deepEqual(await pages(database, id, true), expected.toReversed(), 'newest first');
  const context = await database.conversations.context(id, UNRESTRICTED, 1000, 0);
  assert.deepEqual(
    context.messages.map(({ content }) => content),
    expected,
    'context',
  );
  const half = await database.conversations.context(id, UNRESTRICTED, 4, 0);
  assert.deepEqual(
    half.messages.map(({ content }) => content),
    expected.slice(-4),
    'newest exchanges',
  );
  assert.deepEqual(await exported(database, id), expected, 'export');
  assert.deepEqual(await fork(database, id, null), expected, 'fork');
  assert.deepEqual(await outline(database, id), { title: expected[0], last: expected.at(-1) });
  const conversation = await found(database, id);
  const { messages } = await database.conversations.messages(conversation, 0, 1000, 1e9, ALL);
  const third = messages.filter(({ status }) => status !== 'superseded')[2] ?? assert.fail();
  assert.deepEqual(await fork(database, id, third.seq), expected.slice(0, 3), 'fork of the beginning');
  const before = await database.conversations.context(id, UNRESTRICTED, 1000, 0, { before: third.seq });
  assert.deepEqual(
    before.messages.map(({ content }) => content),
    expected.slice(0, 2),
    'context before the third message',
  );
  const head = { ...conversation, title: null, size: 0 };
  const seen: string[] = [];
  const isIn = async (text: string) => seen.push(text) < 0;
  await database.conversations.search([head], { isIn }, null, () => false);
  assert.deepEqual(seen, expected.toReversed(), 'search');
  seen.length = 0;
  await database.conversations.search([head], { isIn }, { id, seq: third.seq }, () => false);
  assert.deepEqual(seen, expected.slice(0, 2).toReversed(), 'search before the third message');
}

/** Takes the place of everything from the question on, or after it. */
async function revise({ writer }: Database, [question]: [Message, Message], edited?: string) {
  const message =
    edited === undefined ? undefined : userMessage(question.conversationId, { content: edited });
  const pending = replyTo(message ?? question, {
    ...{ content: '', status: 'streaming', finishReason: null, usage: null },
    details: { supersedes: question.uid },
  });
  const revision = { by: UNRESTRICTED, expiredBefore: NOON - 24 * HOUR, message };
  assert.equal(await writer.write({ revision, reply: pending, worker: WORKER }), 'saved');
  const end = { content: 'again', status: 'complete', finishReason: 'stop' } as const;
  assert.equal(await writer.write({ reply: { ...pending, ...end }, worker: WORKER }), 'saved');
}

const KINDS = [
  { name: 'row numbers that grow', old: 0, descending: false },
  { name: 'messages of an earlier version before the others', old: 3, descending: false },
  { name: 'messages of an earlier version alone', old: 6, descending: false },
  { name: 'row numbers that fall', old: 0, descending: true },
];

eachDatabase((_name, open, options) => {
  it('ranges and slices have exactly the messages between two positions', async () => {
    const { knex } = open();
    const id = newId();
    await insertOld(open(), id, turnsOf(id, [1, 2, 3]));
    await write([open()], turnsOf(id, [4, 5, 6]));
    const rows = await knex('messages').where({ conversation_id: id });
    const positions = rows.map(positionOf).sort((a, b) => a - b);
    const bounds = [FIRST, ...positions, (positions.at(-1) ?? 0) + 1, LAST];
    const read = async (ranges: readonly MessageRange[]) => {
      const found: number[] = [];
      for (const { sql, bindings } of ranges) {
        const where = `conversation_id = ? AND epoch = 0 ${sql} ${messageOrder()}`;
        const part = await select<Row>(knex, `SELECT id, seq FROM messages WHERE ${where}`, [
          id,
          ...bindings,
        ]);
        found.push(...part.map(positionOf));
      }
      return found;
    };
    for (const after of bounds) {
      for (const until of bounds) {
        const expected = positions.filter((position) => position > after && position <= until);
        assert.deepEqual(await read(rangesBetween(after, until)), expected);
        if (until < LAST) assert.deepEqual(await read(slicesBetween(after, until, 2)), expected);
      }
    }
  });

  for (const { name, old, descending } of KINDS) {
    // SQLite hands out row numbers by itself.
    if (descending && options.target.kind === 'sqlite') continue;
    describe(`the order with ${name}`, () => {
      let database: Database;
      let other: Database;
      before(async () => {
        [database, other] = [open(), open()];
        if (descending) await countDown(database.knex);
      });
      const make = async () => {
        const id = newId();
        const turns = turnsOf(id, [1, 2, 3, 4, 5, 6]);
        if (old > 0) await insertOld(database, id, turns.slice(0, old));
        await write([database, other], turns.slice(old));
        return { id, turns, expected: turns.flat().map(({ content }) => content) };
      };
      const at = (turns: [Message, Message][], n: number) => turns[n - 1] ?? assert.fail();

      it('is that in which two processes have written', async () => {
        const { id, expected } = await make();
        await assertOrder(database, id, expected);
      });

      it('holds for a regenerated reply and an edited question', async () => {
        for (const n of [2, 5]) {
          const { id, turns, expected } = await make();
          await revise(database, at(turns, n));
          const kept = expected.slice(0, 2 * n - 1);
          await assertOrder(database, id, [...kept, 'again']);
          await revise(other, at(turns, n), 'edited');
          await assertOrder(database, id, [...kept.slice(0, -1), 'edited', 'again']);
          await write([database], turnsOf(id, [7]));
          await assertOrder(database, id, [...kept.slice(0, -1), 'edited', 'again', 'q7', 'a7']);
        }
      });

      it('holds for an import, also in place of a conversation, and the turns after it', async () => {
        const { id } = await make();
        const { settings } = await found(database, id);
        const replacing = { owner: null, replace: true, replacesOwner: false };
        const importAll = (ids: readonly string[], isLong: boolean) => {
          const conversations = ids.map((one) => ({
            ...{ id: one, createdAt: NOON, lastActive: NOON, pinned: false, isLong, settings },
            messages: turnsOf(one, [11, 12])
              .flat()
              .map((message) => ({ ...message, feedback: null })),
          }));
          return database.imports.write(conversations, replacing);
        };
        for (const isLong of [false, true]) {
          const ids = [id, newId(), newId()];
          await importAll(ids, isLong);
          for (const one of ids) {
            await write([other], turnsOf(one, [13]));
            await assertOrder(database, one, ['q11', 'a11', 'q12', 'a12', 'q13', 'a13']);
          }
        }
      });

      it('holds for an export of what has changed, which has all of it', async () => {
        const { id } = await make();
        const since = { at: Date.now() + HOUR };
        assert.deepEqual(await exported(database, id, since), []);
        const at = new Date(since.at).toISOString().replace('T', ' ').slice(0, 23);
        const changed = ['q2', 'a5', 'q6'];
        await database
          .knex('messages')
          .where({ conversation_id: id })
          .whereIn('content', changed)
          .update({ updated_at: at });
        assert.deepEqual(await exported(database, id, since), changed);
      });

      it('answers a call of tools once', async () => {
        const { id, turns } = await make();
        const [, reply] = at(turns, 6);
        const result = userMessage(id, { role: 'tool', replyTo: reply.uid, details: { tool_call_id: 'c' } });
        const answer = (message: Message) => {
          const start = { ...startOf(message), answers: reply.uid };
          return database.writer.write({ start, reply: replyTo(message) });
        };
        assert.equal(await answer(result), 'saved');
        assert.equal(await answer({ ...result, uid: newId() }), 'answered');
      });
    });
  }
});
