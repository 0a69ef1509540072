import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import type { Database } from '../../src/db/database.ts';
import { KnexExportSource } from '../../src/db/exports/reader.ts';
import type { ExportFilter, ExportPart } from '../../src/domain/exports/exports.ts';
import { eachDatabase } from '../support/databases.ts';
import {
  csvRows,
  inOrder,
  type StoredConversation,
  store,
  storedConversation,
} from '../support/export-data.ts';

const START = Date.UTC(2024, 2, 21, 12, 0, 0, 123);
const EVERYTHING: ExportFilter = { owner: null, from: null, to: null, role: null, status: null };
const PAGE = 7;

/** Lengths around a page, an empty conversation, equal times, and contents too long to come with their page. */
function samples(): StoredConversation[] {
  const texts = (count: number) => Array.from({ length: count }, (_, index) => `message ${index} 你好`);
  const lengths = [1, 2, 6, 7, 8, 14, 15, 40, 0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 0, 5];
  return [
    ...lengths.map((count, index) => storedConversation(START + Math.floor(index / 3), texts(count))),
    storedConversation(START + 50, [
      'short',
      '长'.repeat(9000),
      'short',
      'x'.repeat(700_000),
      'y'.repeat(700_000),
    ]),
  ];
}

async function all(source: KnexExportSource, filter = EVERYTHING, id: string | null = null, activeSince = 0) {
  const parts: ExportPart[] = [];
  for await (const page of source.read(await source.scope(filter, id, activeSince)))
    parts.push(...page.parts);
  return parts;
}

/** What came, as the rows of a CSV; pieces must fit together. */
function rowsOf(parts: readonly ExportPart[]): string[][] {
  let open: string | undefined;
  let pieces = 0;
  return parts.flatMap(({ conversation, messages, begins, ends }) => {
    assert.equal(open, begins ? undefined : conversation.id);
    pieces = begins ? messages.length : pieces + messages.length;
    open = ends ? undefined : conversation.id;
    const head = [conversation.id, conversation.createdAt, conversation.lastActive];
    if (ends && pieces === 0) return [[...head, '', '', '', '', '']];
    return messages.map((m) => [...head, m.uid, m.role, m.content, m.timestamp, m.status]);
  });
}

eachDatabase((_name, open) => {
  describe('an export source', () => {
    let database: Database;
    const data = samples();
    before(async () => {
      database = open();
      await store(database, data);
    });

    it('reads every row once, in order, whatever the size of its pages', async () => {
      for (const page of [1, 2, 3, PAGE, 20, 1000, undefined]) {
        const parts = await all(new KnexExportSource(database.knex, page));
        assert.deepEqual(rowsOf(parts), csvRows(data), `page ${page}`);
        assert.equal(parts.at(-1)?.ends, true);
      }
    });

    it('reads one conversation alone', async () => {
      const source = new KnexExportSource(database.knex, PAGE);
      for (const one of data) {
        assert.deepEqual(rowsOf(await all(source, EVERYTHING, one.id)), csvRows([one]));
      }
    });

    it('never holds many long contents at the same time', async () => {
      for await (const page of new KnexExportSource(database.knex).read(
        await database.exports.scope(EVERYTHING, null, 0),
      )) {
        const contents = page.parts.flatMap(({ messages }) => messages.map(({ content }) => content));
        const long = contents.filter((content) => content.length > 8192);
        assert(long.join('').length <= 1_000_000);
      }
    });

    it('includes both bounds, and leaves out what is expired', async () => {
      const source = new KnexExportSource(database.knex, PAGE);
      const between = (from: number, to: number) =>
        data.filter(({ created_at }) => {
          const at = Date.parse(`${created_at.replace(' ', 'T')}Z`);
          return at >= from && at <= to;
        });
      const filter = { ...EVERYTHING, from: START + 2, to: START + 5 };
      assert.deepEqual(rowsOf(await all(source, filter)), csvRows(between(START + 2, START + 5)));
      const later = between(START + 4, START + 99);
      assert.deepEqual(rowsOf(await all(source, EVERYTHING, null, START + 4 + 60_000)), csvRows(later));
      assert.deepEqual(await all(source, { ...EVERYTHING, to: 0 }), []);
    });

    it('with a role or status has only what matches, and counts the same', async () => {
      const source = new KnexExportSource(database.knex, PAGE);
      const kept = data
        .map((one) => ({ ...one, messages: one.messages.filter(({ role }) => role === 'assistant') }))
        .filter(({ messages }) => messages.length > 0);
      const filter = { ...EVERYTHING, role: 'assistant' as const };
      assert.deepEqual(rowsOf(await all(source, filter)), csvRows(kept));
      const messages = kept.reduce((sum, one) => sum + one.messages.length, 0);
      const scope = await source.scope(filter, null, 0);
      assert.deepEqual(await source.count(scope), { conversations: kept.length, messages });
      assert.deepEqual(await all(source, { ...filter, status: 'cancelled' }), []);
      const whole = await source.count(await source.scope(EVERYTHING, null, 0));
      assert.deepEqual(whole, { conversations: data.length, messages: csvRows(data).length - 3 });
    });

    it('continues after pages without matches, not from the last match', async () => {
      const source = new KnexExportSource(database.knex, PAGE);
      const scope = await source.scope({ ...EVERYTHING, status: 'cancelled' }, null, 0);
      const last = inOrder(data).at(-1);
      let pages = 0;
      let id: string | undefined;
      for await (const { parts, position } of source.read(scope)) {
        assert.deepEqual(parts, []);
        id = position?.id;
        pages += 1;
      }
      assert.equal(id, last?.id);
      assert(pages > 1);
      const whole = await source.scope(EVERYTHING, null, 0);
      for await (const { position } of source.read(scope)) {
        const after = inOrder(data).findIndex((one) => one.id === position?.id) + 1;
        const parts: ExportPart[] = [];
        for await (const page of source.read(whole, position)) parts.push(...page.parts);
        assert.deepEqual(rowsOf(parts), csvRows(inOrder(data).slice(after)));
      }
    });

    it('leaves out conversations that came after the start, and later messages of a long one', async () => {
      const source = new KnexExportSource(database.knex, PAGE);
      const scope = await source.scope(EVERYTHING, null, 0);
      const later = storedConversation(START + 100, ['late']);
      await store(database, [later]);
      const long = data.find(({ messages }) => messages.length === 40) ?? assert.fail();
      const late = { ...(long.messages[0] ?? assert.fail()), uid: crypto.randomUUID() };
      const parts: ExportPart[] = [];
      let isAdded = false;
      for await (const page of source.read(scope)) {
        parts.push(...page.parts);
        if (isAdded || !page.parts.some(({ conversation }) => conversation.id === long.id)) continue;
        isAdded = true;
        const row = { ...late, conversation_id: long.id, seq: 41, updated_at: late.timestamp };
        await database.knex('messages').insert(row);
      }
      assert(isAdded);
      assert.deepEqual(rowsOf(parts), csvRows(data));
      await database.knex('conversations').where({ id: later.id }).delete();
      await database.knex('messages').where({ uid: late.uid }).delete();
    });

    it('continues over deletions: no duplicates, all remaining rows, whole conversations', async () => {
      const source = new KnexExportSource(database.knex, 3);
      const victims = data.filter((_, index) => index % 4 === 1);
      const seen: ExportPart[] = [];
      for await (const page of source.read(await source.scope(EVERYTHING, null, 0))) {
        seen.push(...page.parts);
        const victim = victims.pop();
        if (victim) await database.knex('conversations').where({ id: victim.id }).delete();
      }
      const rows = rowsOf(seen);
      const uids = rows.map(([, , , uid]) => uid).filter((uid) => uid !== '');
      assert.equal(new Set(uids).size, uids.length);
      const stay = data.filter((_, index) => index % 4 !== 1);
      const ids = new Set(stay.map(({ id }) => id));
      assert.deepEqual(
        rows.filter(([id]) => ids.has(id ?? '')),
        csvRows(stay),
      );
      const order = inOrder(data).map(({ id }) => id);
      const came = [...new Set(rows.map(([id]) => id ?? ''))];
      assert.deepEqual(
        came,
        order.filter((id) => came.includes(id)),
      );
    });
  });
});
