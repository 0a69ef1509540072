import assert from 'node:assert/strict';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Knex } from 'knex';
import { createKnex } from '../../src/db/core/client.ts';
import {
  MigrationFolder,
  migrateLatest,
  migrateRollback,
  migrationStatus,
  pendingMigrations,
} from '../../src/db/core/migrations.ts';
import { eachDatabase } from '../support/databases.ts';
import { contents, messagesOf, newId, startOf, userMessage } from './fixtures.ts';

const TABLES = ['conversations', 'messages'];

const STEP = `export const up = (knex) => knex.schema.createTable('planets', (table) => table.integer('id'));
export const down = (knex) => knex.schema.dropTable('planets');
`;

const ORDER_MIGRATIONS = [
  '20250901000001_message_seq',
  '20250901000002_conversation_last_seq',
  '20250901000003_order_of_messages',
];

async function tables(knex: Knex): Promise<string[]> {
  const there = await Promise.all(TABLES.map((table) => knex.schema.hasTable(table)));
  return TABLES.filter((_, index) => there[index]);
}

eachDatabase(
  (_name, open, options) => {
    describe('the real migrations', () => {
      test('are all pending in an empty database, and looking changes nothing in it', async () => {
        const { knex } = open();
        const pending = await pendingMigrations(knex);
        assert.ok(pending.length >= 2);
        assert.ok(pending.every((name) => /^\d{14}_\w+$/.test(name)));
        assert.equal(await knex.schema.hasTable('knex_migrations'), false);
      });

      test('make check() reject while they are pending', async () => {
        await assert.rejects(open().conversations.check(), { code: 'database_unavailable', retryAfter: 2 });
      });

      test('go up, down and up again', async () => {
        const { knex } = open();
        const names = await pendingMigrations(knex);
        assert.deepEqual(await migrateLatest(knex), names);
        assert.deepEqual(await tables(knex), TABLES);
        assert.deepEqual(await migrateRollback(knex, true), names.toReversed());
        assert.deepEqual(await tables(knex), []);
        assert.deepEqual(await migrateLatest(knex), names);
        assert.deepEqual(await tables(knex), TABLES);
        assert.deepEqual(await migrateLatest(knex), []);
        assert.deepEqual(
          await migrationStatus(knex),
          names.map((name) => ({ name, applied: true })),
        );
      });

      test('go down one at a time', async () => {
        const { knex } = open();
        await migrateRollback(knex, true);
        const names = await pendingMigrations(knex);
        for (const name of names) assert.deepEqual((await knex.migrate.up())[1], [name]);
        for (const name of names.toReversed()) assert.deepEqual((await knex.migrate.down())[1], [name]);
      });

      test('keep the order of messages, up and down again', async () => {
        const { knex, writer, conversations } = open();
        await migrateLatest(knex);
        for (const _ of ORDER_MIGRATIONS) await knex.migrate.down();
        assert.deepEqual(await pendingMigrations(knex), ORDER_MIGRATIONS);
        const id = newId();
        const times = { created_at: '2024-03-21 12:00:00.123', last_active: '2024-03-21 12:00:00.123' };
        await knex('conversations').insert({ id, ...times });
        const all = ['1', '2', '3', '4', '5'];
        for (const content of all.slice(0, 3)) {
          const row = { uid: newId(), conversation_id: id, role: 'user', content, status: 'complete' };
          const at = { timestamp: times.created_at, updated_at: times.created_at };
          await knex('messages').insert({ ...row, ...at, length: 1 });
        }
        await migrateLatest(knex);
        const [second] = await knex('messages').where({ conversation_id: id, content: '2' });
        for (const content of all.slice(3)) {
          await writer.write({ start: startOf(userMessage(id, { content })) });
        }
        assert.deepEqual(await contents(conversations, id), all);
        // The cursor of an earlier version.
        const rest = await messagesOf(conversations, id, second?.id ?? 0, 10);
        assert.deepEqual(
          rest.map(({ content }) => content),
          all.slice(2),
        );
        for (const _ of ORDER_MIGRATIONS) await knex.migrate.down();
        const rows = await knex('messages').where({ conversation_id: id }).orderBy('id').pluck('content');
        assert.deepEqual(rows, all);
        await migrateRollback(knex, true);
      });

      const testOnline = options.target.kind === 'mysql' ? test : () => {};
      testOnline('order messages without a copy of a table', async () => {
        const { knex } = open();
        await migrateLatest(knex);
        const run = async (way: 'up' | 'down', file: string, algorithm: string) => {
          const raw = (sql: string) => knex.raw(`${sql}, ALGORITHM=${algorithm}`);
          const migration = await new MigrationFolder().getMigration(`${file}.ts`);
          await migration[way]?.(Object.create(knex, { raw: { value: raw } }));
        };
        const steps = ['INSTANT', 'INSTANT', 'INPLACE, LOCK=NONE'];
        for (const file of ORDER_MIGRATIONS.toReversed()) await run('down', file, 'INPLACE, LOCK=NONE');
        for (const [n, file] of ORDER_MIGRATIONS.entries()) await run('up', file, steps[n] ?? '');
        await migrateRollback(knex, true);
      });

      test('are applied once by several processes that start together', async () => {
        const names = await pendingMigrations(open().knex);
        const several = [1, 2, 3].map(() => open());
        const applied = await Promise.all(several.map((database) => database.migrate()));
        assert.deepEqual(applied.flat(), names);
        await open().conversations.check();
      });

      test('need no more than one connection of the pool', async (t) => {
        const knex = createKnex({ ...options, poolMax: 1, acquireTimeoutMs: 1000 });
        t.after(() => knex.destroy());
        assert.deepEqual(await migrateLatest(knex), []);
      });
    });

    describe('a migration of a folder', () => {
      let folder = '';
      before(() => {
        folder = mkdtempSync(join(tmpdir(), 'chat-migrations-'));
        writeFileSync(join(folder, '20250101000000_planets.js'), STEP);
        writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
      });
      after(() => rmSync(folder, { recursive: true, force: true }));

      test('keeps its name when its file gets another extension', async () => {
        const { knex } = open();
        await migrateRollback(knex, true);
        const source = new MigrationFolder(folder);
        assert.deepEqual(await migrateLatest(knex, source), ['20250101000000_planets']);
        renameSync(join(folder, '20250101000000_planets.js'), join(folder, '20250101000000_planets.ts'));
        assert.deepEqual(await pendingMigrations(knex, source), []);
        assert.deepEqual(await migrateLatest(knex, source), []);
        assert.deepEqual(await migrateRollback(knex, true, source), ['20250101000000_planets']);
        assert.equal(await knex.schema.hasTable('planets'), false);
      });
    });
  },
  { migrated: false },
);
