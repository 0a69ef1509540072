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

const TABLES = ['conversations', 'messages'];

const STEP = `export const up = (knex) => knex.schema.createTable('planets', (table) => table.integer('id'));
export const down = (knex) => knex.schema.dropTable('planets');
`;

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
