import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Knex } from 'knex';
import { createKnex } from '../../src/db/core/client.ts';
import { classifyError, isDatabaseDown, toAppError } from '../../src/db/core/errors.ts';
import { openDatabase } from '../../src/db/database.ts';
import { GroupCommitWriter } from '../../src/db/turns/turn-writer.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import { AppError, isUnavailable } from '../../src/domain/errors.ts';
import { eachDatabase, optionsFor, serverUrls, silent } from '../support/databases.ts';
import { startFaultProxy } from '../support/fault-proxy.ts';
import { findMariadbd, type Mariadb, startMariadb } from '../support/mariadb.ts';
import { contents, newId, onStatement, replyTo, startOf, userMessage, writeTurn } from './fixtures.ts';

const PROCESSES = 'SELECT id FROM information_schema.processlist WHERE id = ?';
const AWAY = { code: 'database_unavailable', retryAfter: 2 };
const BUSY = { code: 'database_busy', retryAfter: 2 };

describe('a driver error', () => {
  const coded = (code: string) => Object.assign(new Error(code), { code });

  for (const code of [
    'ER_LOCK_DEADLOCK',
    'ER_LOCK_WAIT_TIMEOUT',
    'SQLITE_BUSY_SNAPSHOT',
    'ER_QUERY_TIMEOUT',
  ]) {
    test(`${code} means that the database is busy, which is no outage`, () => {
      const error = toAppError(coded(code));
      assert.ok(error instanceof AppError);
      assert.deepEqual({ code: error.code, retryAfter: error.retryAfter }, BUSY);
      assert.equal(isUnavailable(error), false);
    });
  }

  for (const code of ['PROTOCOL_CONNECTION_LOST', 'ECONNREFUSED', 'SQLITE_IOERR_FSYNC', 'SQLITE_FULL']) {
    test(`${code} means that the database is unavailable, and keeps its cause`, () => {
      const error = toAppError(coded(code));
      assert.ok(error instanceof AppError);
      assert.equal(error.code, 'database_unavailable');
      assert.equal(error.retryAfter, 2);
      assert.equal((error.cause as Error).message, code);
      assert.doesNotMatch(error.message, new RegExp(code));
    });
  }

  for (const code of ['ER_DATA_TOO_LONG', 'ER_DUP_ENTRY', 'SQLITE_CONSTRAINT_CHECK', 'ER_PARSE_ERROR']) {
    test(`${code} is an error of the statement and stays unchanged`, () => {
      const error = coded(code);
      assert.equal(classifyError(error), undefined);
      assert.equal(toAppError(error), error);
    });
  }
});

describe('an unreachable MySQL', () => {
  test('is unavailable, immediately and without its address in the detail', async () => {
    const database = openDatabase(
      optionsFor({ kind: 'mysql', url: 'mysql://root@127.0.0.1:1/nothing' }),
      silent,
    );
    const away = (error: AppError) => {
      assert.deepEqual({ code: error.code, retryAfter: error.retryAfter }, AWAY);
      assert.equal((error.cause as { code?: string }).code, 'ECONNREFUSED');
      assert.doesNotMatch(error.message, /127\.0\.0\.1|ECONN/);
      return true;
    };
    await assert.rejects(database.conversations.check(), away);
    await assert.rejects(database.conversations.find(newId()), away);
    await assert.rejects(database.conversations.delete(newId(), UNRESTRICTED), away);
    await assert.rejects(database.purge.countExpired(0), away);
    await assert.rejects(
      database.purge.exclusively('purge', async () => {}),
      away,
    );
    await assert.rejects(database.writer.write({ start: startOf(userMessage(newId())) }), away);
  });

  test('that accepts the connection and stays silent is unavailable within the connection timeout', async (t) => {
    const sockets: Socket[] = [];
    const mute = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1');
    await once(mute, 'listening');
    const { port } = mute.address() as { port: number };
    const options = optionsFor({ kind: 'mysql', url: `mysql://root@127.0.0.1:${port}/nothing` });
    const database = openDatabase({ ...options, acquireTimeoutMs: 200 }, silent);
    t.after(async () => {
      await database.close();
      for (const socket of sockets) socket.destroy();
      mute.close();
    });
    await assert.rejects(database.conversations.find(newId()), AWAY);
  });
});

eachDatabase((_name, open, options) => {
  if (options.target.kind === 'sqlite') {
    const { file } = options.target;
    test('a file that is not a database is a readable error', async () => {
      const broken = join(file, '..', 'broken.sqlite');
      writeFileSync(broken, 'this is no database, however long one looks at it'.repeat(100));
      const database = open({ target: { kind: 'sqlite', file: broken } });
      await assert.rejects(database.conversations.find(newId()));
    });
    return;
  }

  async function connectionIds(knex: Knex): Promise<number[]> {
    const [rows] = await knex.raw(
      'SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()',
    );
    return rows.map((row: object) => Number(Object.values(row)[0]));
  }

  test('a session is UTC, utf8mb4, strict and without gap locks, whatever the server’s settings', async () => {
    const { knex } = open();
    const [[row]] = await knex.raw(
      'SELECT @@time_zone AS zone, @@character_set_client AS client, @@character_set_results AS results, @@sql_mode AS mode',
    );
    assert.deepEqual([row.zone, row.client, row.results], ['+00:00', 'utf8mb4', 'utf8mb4']);
    assert.match(row.mode, /STRICT_TRANS_TABLES/);
    assert.doesNotMatch(row.mode, /NO_BACKSLASH_ESCAPES|ANSI_QUOTES/);
    const [tables] = await knex.raw(
      'SELECT engine, table_collation FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN (?, ?)',
      ['conversations', 'messages'],
    );
    const values = tables.map((table: object) => Object.values(table).join(' '));
    assert.deepEqual(values, ['InnoDB utf8mb4_bin', 'InnoDB utf8mb4_bin']);
  });

  test('text that does not fit fails its write instead of being truncated', async () => {
    const { writer, knex } = open();
    const question = userMessage(newId());
    // The column holds 16 MiB; a smaller one shows the same without sending that much.
    await knex.raw('ALTER TABLE messages MODIFY finish_reason VARCHAR(4) CHARACTER SET ascii NULL');
    const good = userMessage(newId());
    const [saved, failed] = await Promise.allSettled([
      writer.write({ start: startOf(good) }),
      writer.write({ start: startOf(question), reply: replyTo(question, { finishReason: 'cancelled' }) }),
    ]);
    await knex.raw('ALTER TABLE messages MODIFY finish_reason VARCHAR(32) CHARACTER SET ascii NULL');
    assert.equal(saved?.status, 'fulfilled');
    assert.equal(failed?.status === 'rejected' && failed.reason.code, 'ER_DATA_TOO_LONG');
  });

  test('a statement that times out is discarded with its connection and ended on the server', async () => {
    const { knex } = open({ poolMax: 1, queryTimeoutMs: 200 });
    const connection = async () => (await knex.raw('SELECT CONNECTION_ID() AS id'))[0][0].id;
    const before = await connection();
    await assert.rejects(knex.raw('SELECT SLEEP(50)'), { code: 'PROTOCOL_SEQUENCE_TIMEOUT' });
    assert.notEqual(await connection(), before);
    const admin = open().knex;
    const running = async () => (await admin.raw(PROCESSES, [before]))[0].length;
    for (const deadline = performance.now() + 20_000; (await running()) > 0; await delay(20)) {
      assert.ok(performance.now() < deadline, 'the server still executes the statement');
    }
  });

  test('a statement that times out on a server that answers every statement late is no outage', async (t) => {
    assert.ok(options.target.kind === 'mysql');
    const late = new URL(options.target.url);
    const proxy = await startFaultProxy(Number(late.port));
    late.port = String(proxy.port);
    proxy.delay(300);
    const target = { kind: 'mysql' as const, url: late.href };
    const own = createKnex({ ...options, target, queryTimeoutMs: 2000 });
    t.after(async () => {
      proxy.delay(0);
      await own.destroy();
      await proxy.close();
    });
    await assert.rejects(own.raw('SELECT SLEEP(50)'), { code: 'PROTOCOL_SEQUENCE_TIMEOUT' });
  });

  test('a connection that was killed while idle fails no request', async () => {
    const { conversations, writer, knex } = open();
    const { conversationId } = await writeTurn(writer, userMessage(newId()));
    await conversations.find(conversationId);
    const admin = open().knex;
    for (let round = 0; round < 5; round++) {
      for (const id of await connectionIds(admin)) await admin.raw(`KILL ${id}`).catch(() => {});
      // At once, before the process can have noticed, and again with whatever connection is left.
      const [found] = await Promise.all([
        conversations.find(conversationId),
        writer.write({ start: startOf(userMessage(conversationId)) }),
      ]);
      assert.equal(found?.id, conversationId);
    }
    assert.equal((await contents(conversations, conversationId)).length, 7);
    await knex.raw('SELECT 1');
  });

  test('a connection that is killed before COMMIT is detected: the write is repeated once', async (t) => {
    const { conversations } = open();
    const own = createKnex({ ...options, poolMin: 0, poolMax: 1, batches: true });
    t.after(() => own.destroy());
    const writer = new GroupCommitWriter(own, silent);
    const admin = open().knex;
    const question = userMessage(newId());
    let kills = 0;
    // In the same moment as COMMIT is sent, the connection breaks under it.
    own.client.pool.on(
      'acquireSuccess',
      (_event: number, connection: { query: CallableFunction; destroy(): void }) => {
        if (kills > 0) return;
        kills += 1;
        const query = connection.query.bind(connection);
        connection.query = (first: { sql: string }, ...rest: unknown[]) => {
          if (/\bCOMMIT;?$/.test(first.sql)) connection.destroy();
          return query(first, ...rest);
        };
      },
    );
    assert.equal(await writer.write({ start: startOf(question), reply: replyTo(question) }), 'saved');
    assert.equal(kills, 1);
    assert.equal((await contents(conversations, question.conversationId)).length, 2);
    await admin.raw('SELECT 1');
  });
});

describe('a private database server', { timeout: 90_000 }, () => {
  if (serverUrls().length === 0 || !findMariadbd()) return;
  let server: Mariadb;
  before(async () => {
    server = await startMariadb();
    const admin = createKnex(optionsFor({ kind: 'mysql', url: `${server.url}/mysql` }));
    await admin.raw('CREATE DATABASE chat');
    await admin.destroy();
  });
  after(() => server.stop());

  for (const [what, url] of [
    ['does not know the user', (base: string) => base.replace('root@', 'nobody:s3cret@')],
    ['has no such database', (base: string) => base.replace('/chat', '/nothing')],
  ] as const) {
    test(`that ${what} denies access: callers get unavailable, but waiting does not help`, async (t) => {
      const database = openDatabase(optionsFor({ kind: 'mysql', url: url(`${server.url}/chat`) }), silent);
      t.after(() => database.close());
      await assert.rejects(database.conversations.find(newId()), AWAY);
      await assert.rejects(database.pendingMigrations(), (error: Error) => {
        assert.equal(classifyError(error), 'refused');
        assert.equal(isDatabaseDown(error), false);
        assert.doesNotMatch(error.message, /s3cret/);
        return true;
      });
    });
  }

  test('with other defaults for sessions does what it should: each connection sets its own', async (t) => {
    const target = { kind: 'mysql' as const, url: `${server.url}/hostile` };
    const admin = createKnex(optionsFor({ kind: 'mysql', url: `${server.url}/mysql` }));
    const hostile = {
      ...{ autocommit: 0, completion_type: 1, foreign_key_checks: 0, unique_checks: 0, sql_safe_updates: 1 },
      ...{
        sql_select_limit: 1,
        sql_auto_is_null: 1,
        max_join_size: 1,
        time_zone: "'+05:00'",
        tx_read_only: 1,
      },
      ...{
        tx_isolation: "'SERIALIZABLE'",
        sql_mode: "'PAD_CHAR_TO_FULL_LENGTH'",
        default_storage_engine: 'MyISAM',
      },
    };
    const isMariadb = (await admin.raw('SELECT VERSION() AS version'))[0][0].version.includes('MariaDB');
    const variables = Object.entries(hostile).map(([name, value]) => ({
      name: isMariadb ? name : name.replace(/^tx_/, 'transaction_'),
      value,
    }));
    t.after(async () => {
      for (const { name } of variables) await admin.raw(`SET GLOBAL ${name} = DEFAULT`);
      await admin.destroy();
    });
    await admin.raw('CREATE DATABASE hostile');
    for (const { name, value } of variables) await admin.raw(`SET GLOBAL ${name} = ${value}`);

    const database = openDatabase(optionsFor(target), silent);
    t.after(() => database.close());
    await database.migrate();
    const { conversations, writer, knex, writerKnex } = database;
    const tables = 'information_schema.tables';
    const engines = knex(tables).where({ table_schema: 'hostile' }).distinct('engine').pluck('engine');
    assert.deepEqual(await engines, ['InnoDB']);
    const { conversationId } = await writeTurn(writer, userMessage(newId()));
    await writeTurn(writer, userMessage(conversationId));
    // As another session sees it.
    const stored = () => admin('hostile.messages').where({ conversation_id: conversationId }).pluck('uid');
    assert.equal((await stored()).length, 4);
    assert.equal((await contents(conversations, conversationId)).length, 4);
    for (const each of [knex, writerKnex]) {
      const names = variables.map(({ name }) => `@@SESSION.${name} AS ${name}`).join(', ');
      const [[set]] = await each.raw(`SELECT ${names}`);
      for (const { name, value } of variables) {
        if (name !== 'max_join_size')
          assert.notEqual(String(set[name]), String(value).replaceAll("'", ''), name);
      }
      const orphan = { uid: newId(), conversation_id: newId(), role: 'user', content: '', length: 0 };
      const times = { timestamp: '2024-01-01', updated_at: '2024-01-01', status: 'complete' };
      await assert.rejects(Promise.resolve(each('messages').insert({ ...orphan, ...times })), {
        code: 'ER_NO_REFERENCED_ROW_2',
      });
    }
    assert.equal(await conversations.delete(conversationId, UNRESTRICTED), true);
    assert.deepEqual(await contents(conversations, conversationId), []);
  });

  test('that freezes fails reads and writes at their timeouts, and serves again when it resumes', async (t) => {
    const options = {
      ...optionsFor({ kind: 'mysql' as const, url: `${server.url}/chat` }),
      queryTimeoutMs: 1000,
    };
    const database = openDatabase({ ...options, acquireTimeoutMs: 1000 }, silent);
    t.after(async () => {
      server.thaw();
      await database.close();
    });
    await database.migrate();
    const question = await writeTurn(database.writer, userMessage(newId()));
    await database.conversations.find(question.conversationId);
    server.freeze();
    const began = performance.now();
    const late = userMessage(newId());
    const queue = Array.from({ length: 350 }, () =>
      database.writer.write({ start: startOf(userMessage(newId())) }),
    );
    const queued = Promise.allSettled(queue);
    const away = await Promise.allSettled([
      database.conversations.find(newId()),
      database.writer.write({ start: startOf(late) }),
      database.conversations.check(),
    ]);
    assert.ok(
      (await queued).every((result) => result.status === 'rejected' && result.reason.code === AWAY.code),
    );
    const took = performance.now() - began;
    server.thaw();
    assert.deepEqual(
      away.map((result) => result.status === 'rejected' && result.reason.code),
      ['database_unavailable', 'database_unavailable', 'database_unavailable'],
    );
    // One after the other they take minutes.
    assert.ok(took < 20_000, `took ${took} ms`);
    assert.ok(await database.conversations.find(question.conversationId));
    assert.equal(await database.writer.write({ start: startOf(late) }), 'saved');
    assert.equal((await contents(database.conversations, late.conversationId)).length, 1);
  });

  test('that freezes at COMMIT does not block the writer for ever', async (t) => {
    const options = {
      ...optionsFor({ kind: 'mysql' as const, url: `${server.url}/chat` }),
      queryTimeoutMs: 1000,
    };
    const knex = createKnex({ ...options, acquireTimeoutMs: 1000, poolMax: 1, batches: true });
    t.after(async () => {
      server.thaw();
      await knex.destroy();
    });
    const writer = new GroupCommitWriter(knex, silent);
    const stop = onStatement(knex, (sql) => {
      if (/\bCOMMIT;?$/.test(sql)) server.freeze();
    });
    await assert.rejects(writer.write({ start: startOf(userMessage(newId())) }), AWAY);
    server.thaw();
    stop();
    assert.equal(await writer.write({ start: startOf(userMessage(newId())) }), 'saved');
  });

  test('that is killed and comes back serves again without a restart of the application', async (t) => {
    const options = optionsFor({ kind: 'mysql', url: `${server.url}/chat` });
    const database = openDatabase(options, silent);
    t.after(() => database.close());
    const question = await writeTurn(database.writer, userMessage(newId()));
    await server.kill();
    await assert.rejects(database.conversations.find(question.conversationId), AWAY);
    await assert.rejects(database.writer.write({ reply: replyTo(question) }), AWAY);
    await server.start();
    assert.equal((await contents(database.conversations, question.conversationId)).length, 2);
    assert.equal(await database.writer.write({ reply: replyTo(question) }), 'saved');
  });
});
