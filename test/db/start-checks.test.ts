/** What the start says of a database that cannot work. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import mysql from 'mysql2/promise';
import { createKnex, type DatabaseOptions } from '../../src/db/core/client.ts';
import { openDatabase } from '../../src/db/database.ts';
import { prepareSchema } from '../../src/db/prepare-schema.ts';
import { explainDenied, toStartError } from '../../src/startup/database-error.ts';
import { StartError } from '../../src/startup/start-error.ts';
import { eachDatabase, optionsFor, serverUrls, silent } from '../support/databases.ts';

async function startError(options: DatabaseOptions, autoMigrate = false): Promise<string> {
  const database = openDatabase(options, silent);
  try {
    const { signal } = new AbortController();
    await prepareSchema(database, { autoMigrate, signal }, silent);
    return 'started';
  } catch (error) {
    const known = toStartError(error);
    assert.ok(known instanceof StartError, String(error));
    return known.message;
  } finally {
    await database.close();
  }
}

eachDatabase((_name, open, options) => {
  test('a database that can be written is accepted, and nothing changes in it', async () => {
    assert.equal(await startError(options), 'started');
    const { knex } = open();
    assert.deepEqual(await knex('conversations').select(), []);
    assert.deepEqual(await knex('messages').select(), []);
  });
});

const USERS = {
  locked: "CREATE USER ?@'%' IDENTIFIED BY 'right' ACCOUNT LOCK",
  expired: "CREATE USER ?@'%' IDENTIFIED BY 'right' PASSWORD EXPIRE",
  reader: "CREATE USER ?@'%' IDENTIFIED BY 'right'",
  writer: "CREATE USER ?@'%' IDENTIFIED BY 'right'",
  other: "CREATE USER ?@'%' IDENTIFIED BY 'right'",
};
type User = keyof typeof USERS;

for (const server of serverUrls()) {
  describe(`MySQL ${new URL(server).host} is refused in one sentence`, () => {
    const suffix = crypto.randomUUID().slice(0, 8);
    const [full, empty] = [`chat_start_${suffix}`, `chat_empty_${suffix}`];
    const name = (user: User) => `${user}_${suffix}`;
    let admin: mysql.Connection;
    const urlOf = (user: User, password = 'right', database = full) => {
      const url = new URL(server);
      Object.assign(url, { username: name(user), password, pathname: `/${database}` });
      return optionsFor({ kind: 'mysql', url: url.href });
    };

    before(async () => {
      admin = await mysql.createConnection({ uri: server });
      for (const database of [full, empty]) await admin.query(`CREATE DATABASE ${database}`);
      for (const user of Object.keys(USERS) as User[]) await admin.query(USERS[user], [name(user)]);
      for (const user of ['locked', 'expired'] as const) {
        await admin.query(`GRANT ALL ON ${full}.* TO ?@'%'`, [name(user)]);
      }
      await admin.query(`GRANT SELECT ON ${full}.* TO ?@'%'`, [name('reader')]);
      for (const database of [full, empty]) {
        await admin.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON ${database}.* TO ?@'%'`, [name('writer')]);
      }
      const url = new URL(server);
      url.pathname = `/${full}`;
      const database = openDatabase(optionsFor({ kind: 'mysql', url: url.href }), silent);
      await database.migrate();
      await database.close();
    });
    after(async () => {
      for (const user of Object.keys(USERS) as User[]) await admin.query("DROP USER ?@'%'", [name(user)]);
      for (const database of [full, empty]) await admin.query(`DROP DATABASE ${database}`);
      await admin.end();
    });

    test('where only reading is allowed, but not without the rights of migrations', async () => {
      assert.match(
        await startError(urlOf('reader')),
        /\(ER_TABLEACCESS_DENIED_ERROR\): INSERT is missing: grant /,
      );
      assert.equal(await startError(urlOf('writer')), 'started');
    });

    test('where a migration lacks a right', async () => {
      const error = await startError(urlOf('writer', 'right', empty), true);
      assert.match(error, /\(ER_TABLEACCESS_DENIED_ERROR\): CREATE is missing: grant /);
    });

    for (const [what, options, expected] of [
      ['with a locked user', () => urlOf('locked'), /its user is locked: unlock it with ALTER USER/],
      ['with an expired password', () => urlOf('expired'), /has expired: set a new one with ALTER USER/],
      ['with a wrong password', () => urlOf('reader', 'wrong'), /: check user and password of DATABASE_URL/],
      [
        'without rights on the database',
        () => urlOf('other'),
        /: create the database of DATABASE_URL, and grant it/,
      ],
    ] as const) {
      test(what, async () => {
        const error = await startError(options());
        assert.match(error, /^the database denies access \([A-Z_]+\): /);
        assert.match(error, expected);
      });
    }
  });

  describe(`every connection to MySQL ${new URL(server).host}`, () => {
    test('has the session variables that the program relies on, whatever the defaults are', async (t) => {
      const url = new URL(server);
      url.pathname = '/information_schema';
      for (const batches of [false, true]) {
        const knex = createKnex({ ...optionsFor({ kind: 'mysql', url: url.href }), batches });
        t.after(() => knex.destroy());
        const [answer] = await knex.raw(
          "SHOW SESSION VARIABLES WHERE Variable_name IN ('autocommit', 'completion_type', 'foreign_key_checks', 'unique_checks', 'sql_safe_updates', 'sql_auto_is_null', 'sql_big_selects', 'sql_select_limit', 'default_storage_engine', 'time_zone', 'sql_mode', 'tx_isolation', 'transaction_isolation', 'tx_read_only', 'transaction_read_only', 'character_set_client', 'character_set_connection', 'character_set_results', 'idle_transaction_timeout')",
        );
        const found = Object.fromEntries(
          (answer as { Variable_name: string; Value: string }[]).map((row) => [
            row.Variable_name.replace(/^transaction_/, 'tx_'),
            row.Value,
          ]),
        );
        const { idle_transaction_timeout: idleSeconds, ...others } = found;
        // Of MariaDB alone.
        if (idleSeconds !== undefined) assert.equal(idleSeconds, '20');
        assert.deepEqual(others, {
          autocommit: 'ON',
          character_set_client: 'utf8mb4',
          character_set_connection: 'utf8mb4',
          character_set_results: 'utf8mb4',
          completion_type: 'NO_CHAIN',
          default_storage_engine: 'InnoDB',
          foreign_key_checks: 'ON',
          sql_auto_is_null: 'OFF',
          sql_big_selects: 'ON',
          sql_mode:
            'STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION',
          sql_safe_updates: 'OFF',
          sql_select_limit: '18446744073709551615',
          time_zone: '+00:00',
          tx_isolation: 'READ-COMMITTED',
          tx_read_only: 'OFF',
          unique_checks: 'ON',
        });
      }
    });
  });
}

describe('what cannot be provoked on every server', () => {
  for (const [code, expected] of [
    ['ER_SECURE_TRANSPORT_REQUIRED', /requires TLS: add \?ssl=true/],
    ['AUTH_SWITCH_PLUGIN_ERROR', /plugin of its user is not supported/],
    ['ER_ACCOUNT_HAS_BEEN_LOCKED', /user is locked/],
    ['ER_BULK_PARSER_INCOMPLETE_ESCAPE_SEQUENCE', /user is locked/],
    ['ER_BINLOG_STMT_MODE_AND_ROW_ENGINE', /binlog_format is STATEMENT/],
    ['SQLITE_READONLY_DIRECTORY', /read-only for this user/],
  ] as const) {
    test(`is explained: ${code}`, () => {
      const error = Object.assign(new Error('hunter2'), { code, fatal: true });
      assert.match(explainDenied(error) ?? '', expected);
      assert.doesNotMatch(explainDenied(error) ?? '', /hunter2/);
    });
  }

  test('a file that is no database is explained', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'chat-start-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const file = join(folder, 'chat.sqlite');
    writeFileSync(file, 'no database '.repeat(1000));
    assert.match(
      await startError(optionsFor({ kind: 'sqlite', file })),
      /\(SQLITE_NOTADB\): its file is not a SQLite/,
    );
  });
});
