/** Exports of much of which little matches: no statement looks at everything. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import type { Knex } from 'knex';
import type { Database } from '../../src/db/database.ts';
import { KnexExportSource } from '../../src/db/exports/reader.ts';
import type { ExportFilter, ExportScope } from '../../src/domain/exports/exports.ts';
import { eachDatabase } from '../support/databases.ts';
import { store, stored, storedConversation } from '../support/export-data.ts';
import { ticksDuring } from '../support/ticks.ts';

const EVERYTHING: ExportFilter = { owner: null, from: null, to: null, role: null, status: null };
const HOUR = 3_600_000;
const OLD = Date.now() - 30 * HOUR;
/** Milliseconds of CPU between two turns of the event loop. */
const MOST_MS = 50;
/** On MySQL rows are counted, and their bounds are proportional to the pages: small ones show the same. */
const PAGE = 140;
/** Rows that a statement may look at: 20 pages, twice 500 conversations, and some; without bounds it is 6,300. */
const MOST_ROWS = 4000;

/** The most rows that one statement of the connection looked at since. MySQL only. */
function rowsPerStatement({ client }: Knex): () => number {
  let most = 0;
  const run = client._query.bind(client);
  const looked = async (connection: {
    promise(): { query(sql: string): Promise<[{ Value: string }[]]> };
  }) => {
    const [rows] = await connection.promise().query(`SHOW SESSION STATUS LIKE 'Handler_read%'`);
    return rows.reduce((sum, { Value }) => sum + Number(Value), 0);
  };
  client._query = async (connection: Parameters<typeof looked>[0], query: object) => {
    const from = await looked(connection);
    const result = await run(connection, query);
    most = Math.max(most, (await looked(connection)) - from);
    return result;
  };
  return () => most;
}

eachDatabase((_name, open, { target }) => {
  const isPooled = target.kind === 'mysql';
  /** One long conversation, and many short ones of the same time. */
  const [long, short] = isPooled ? [4800, 800] : [24_000, 4000];
  const all = long + 4 * short;

  describe('an export of which little matches', () => {
    let database: Database;
    before(async () => {
      database = open({ poolMax: 1 });
      await store(database, [
        storedConversation(OLD, Array(long).fill('one of many')),
        ...Array.from({ length: short }, () => storedConversation(OLD, ['a', 'b', 'c', 'd'])),
      ]);
    });
    const source = () => (isPooled ? new KnexExportSource(database.knex, PAGE) : database.exports);
    const read = async (scope: ExportScope) => {
      let messages = 0;
      for await (const { parts } of source().read(scope)) {
        for (const part of parts) messages += part.messages.length;
      }
      return messages;
    };
    const unchanged = async () => source().scope(EVERYTHING, null, 0, { at: Date.now() });

    it('looks at few rows in each statement, and blocks nothing for long', async () => {
      const most = isPooled ? rowsPerStatement(database.knex) : () => 0;
      const scopes: [string, ExportScope, number][] = [
        ['nothing changed', await unchanged(), 0],
        ['no such status', await source().scope({ ...EVERYTHING, status: 'cancelled' }, null, 0), 0],
        ['all expired', await source().scope(EVERYTHING, null, Date.now()), 0],
        ['everything', await source().scope(EVERYTHING, null, 0), all],
      ];
      for (const [name, scope, messages] of scopes) {
        const { longest: tick } = await ticksDuring(async () => {
          assert.equal((await source().count(scope)).messages, messages, name);
          assert.equal(await read(scope), messages, name);
        });
        assert(most() <= MOST_ROWS, `${name}: ${most()} rows in one statement`);
        if (!isPooled) assert(tick <= MOST_MS, `${name}: ${tick} ms`);
      }
    });

    it('has what is new, however small the database: not the page of it', async () => {
      const recent = storedConversation(Date.now() - 60_000, ['new']);
      await store(database, [recent]);
      const scope = await unchanged();
      assert.deepEqual(await source().count(scope), { conversations: 1, messages: 1 });
      assert.equal(await read(scope), 1);
    });

    it('has the change of one old message of a long conversation', async () => {
      // The first row belongs to the long one.
      const scope = await unchanged();
      await database
        .knex('messages')
        .where('id', 1)
        .update({ updated_at: stored(Date.now()) });
      assert.deepEqual(await source().count(scope), { conversations: 2, messages: 2 });
      assert.equal(await read(scope), 2);
    });
  });
});
