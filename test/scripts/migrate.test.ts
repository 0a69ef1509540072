import assert from 'node:assert/strict';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import Sqlite from 'better-sqlite3';
import { createKnex } from '../../src/db/core/client.ts';
import { databases } from '../support/chat-server.ts';
import { optionsFor } from '../support/databases.ts';
import { type ScriptFolder, scriptFolder } from '../support/script.ts';

const conversation = (n: number) => ({
  id: `00000000-0000-4000-8000-00000000000${n}`,
  created_at: '2026-03-21 12:00:00.000',
  last_active: '2026-03-21 12:00:00.000',
  messages: [],
});

describe('npm run migrate:rollback', () => {
  let folder: ScriptFolder;
  before(async () => {
    folder = scriptFolder();
    assert.equal((await folder.start('migrate', ['latest']).ended).code, 0);
    folder.fill([conversation(1), conversation(2)]);
  });
  after(() => folder.remove());
  const count = (file = 'chat.sqlite') => {
    const database = new Sqlite(join(folder.path, file), { readonly: true });
    const tables = database.prepare("SELECT name FROM sqlite_schema WHERE name = 'conversations'").all();
    const rows = tables.length === 0 ? [] : database.prepare('SELECT id FROM conversations').all();
    database.close();
    return rows.length;
  };

  it('says what is lost and changes nothing without a terminal and --yes', async () => {
    const { code, stdout, stderr } = await folder.run('migrate', 'rollback');
    assert.match(stdout.toString(), /^SQLite .*\nreverts \d+ migrations:\n {2}\d{14}_\w+\n/);
    assert.match(
      stdout.toString(),
      /\ndrops these tables with their rows:\n {2}conversations {4}2 rows\n {2}messages {9}0 rows\n/,
    );
    assert.deepEqual(
      [code, stderr],
      [1, 'Nothing was rolled back: repeat the command with --yes if this is meant\n'],
    );
    assert.equal(count(), 2);
  });

  it('is refused while a server uses the database', async () => {
    mkdirSync(join(folder.path, 'workers'));
    const held = new Sqlite(join(folder.path, 'workers', '00000000-0000-4000-8000-000000000009.lock'));
    held.exec('BEGIN EXCLUSIVE');
    const { code, stderr } = await folder.run('migrate', 'rollback', 'all', '--yes');
    held.close();
    assert.match(
      stderr,
      /^Nothing was rolled back: 1 server processes use this database \(0{8}-.*9\); stop them first\n$/,
    );
    assert.deepEqual([code, count()], [1, 2]);
  });

  it('is refused while the heartbeat of a process changes', async () => {
    const database = new Sqlite(join(folder.path, 'chat.sqlite'));
    database.exec("INSERT INTO workers (id, beat, started_at) VALUES ('a', 1, '2026-03-21 12:00:00.000')");
    const beats = setInterval(() => database.exec('UPDATE workers SET beat = beat + 1'), 50);
    const { code, stderr } = await folder.run('migrate', 'rollback', '--yes');
    clearInterval(beats);
    database.exec('DELETE FROM workers');
    database.close();
    assert.match(stderr, /1 server processes use this database \(a\)/);
    assert.deepEqual([code, count()], [1, 2]);
  });

  it('copies the file of SQLite first', async () => {
    const { code, stdout, stderr } = await folder.run('migrate', 'rollback', '--yes');
    assert.deepEqual([code, stderr], [0, '']);
    const [copy = ''] = readdirSync(folder.path).filter((name) => name.includes('before-rollback'));
    assert.ok(stdout.toString().includes(`\ncopied to    ${join(folder.path, copy)}\nrolled back  `));
    assert.deepEqual([count(copy), count()], [2, 0]);
    const again = await folder.run('migrate', 'rollback', '--yes');
    assert.match(again.stdout.toString(), /no migrations to roll back/);
  });

  it('and migrate refuse a database of a newer version', async () => {
    await folder.run('migrate', 'latest');
    const database = new Sqlite(join(folder.path, 'chat.sqlite'));
    database.exec("INSERT INTO knex_migrations (name, batch) VALUES ('20990101000000_later', 2)");
    database.close();
    for (const args of [['latest'], ['rollback', '--yes']]) {
      const { code, stderr } = await folder.run('migrate', ...args);
      const message =
        'The database has migrations of a newer version (20990101000000_later): update this program';
      assert.deepEqual([code, stderr], [1, `${message}\n`]);
    }
  });
});

for (const place of databases(false).slice(1)) {
  describe(`npm run migrate on ${place.name}`, () => {
    it('tells a taken lock from one that cannot be written, and rolls back without a copy', async (t) => {
      const { DATABASE_URL = '' } = await place.create();
      const folder = scriptFolder(DATABASE_URL);
      const knex = createKnex(optionsFor({ kind: 'mysql', url: DATABASE_URL }));
      t.after(async () => {
        await knex.destroy();
        folder.remove();
        await place.drop();
      });
      assert.equal((await folder.run('migrate', 'latest')).code, 0);
      await knex('knex_migrations').orderBy('id', 'desc').limit(1).delete();
      await knex('knex_migrations_lock').update({ is_locked: 1 });
      const locked = await folder.run('migrate', 'latest');
      assert.match(
        locked.stderr,
        /^Another process is migrating, or was killed .* npm run migrate:unlock\n$/,
      );
      await knex.raw('RENAME TABLE knex_migrations_lock TO elsewhere');
      await knex.raw(
        'CREATE VIEW knex_migrations_lock AS SELECT 1 AS `index`, 0 + 0 AS is_locked FROM elsewhere',
      );
      const broken = await folder.run('migrate', 'latest');
      assert.match(broken.stderr, /^The lock of the migrations cannot be written: .*not updatable.*\n$/);
      await knex.raw('DROP VIEW knex_migrations_lock');
      await knex.raw('RENAME TABLE elsewhere TO knex_migrations_lock');
      assert.equal((await folder.run('migrate', 'unlock')).code, 0);
      const { code, stdout, stderr } = await folder.run('migrate', 'rollback', '--yes');
      assert.deepEqual([code, stderr], [0, '']);
      assert.match(stdout.toString(), /\ndrops these tables .*\nrolled back {2}/s);
      assert.doesNotMatch(stdout.toString(), /copied/);
    });
  });
}
