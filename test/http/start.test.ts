import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, describe, it } from 'node:test';
import Sqlite from 'better-sqlite3';
import { type RunningServer, startServer } from '../../src/compose/index.ts';
import { type Config, loadConfig } from '../../src/config/config.ts';
import { Journal } from '../../src/db/journal/journal.ts';
import { createLogger } from '../../src/logger.ts';
import { RequestContext } from '../../src/request-context.ts';
import { StartError } from '../../src/startup/start-error.ts';
import { newId, startOf, userMessage } from '../db/fixtures.ts';
import { databases, until } from '../support/chat-server.ts';
import { type ChildFolder, type ChildServer, makeFolder } from '../support/child-server.ts';
import { smallDisk } from '../support/small-disk.ts';

/** Kinds of sockets and watchers, and open files in the folder. */
function openHandles(folder: string): string[] {
  const links = process.platform === 'linux' ? readdirSync('/proc/self/fd') : [];
  const files = links.flatMap((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return [];
    }
  });
  const resources = process.getActiveResourcesInfo().filter((kind) => /TCP|Watch|FSEvent/.test(kind));
  return [...resources, ...files.filter((file) => file.startsWith(folder))].sort();
}

function startHere(config: Config): Promise<RunningServer> {
  const log = createLogger({ level: 'silent', file: undefined }, () => ({}));
  return startServer(config, '0.0.0-test', log, new RequestContext());
}

/** Of most refusals the message is enough: what the process does with it is shown once, and costs its start. */
function refusesHere(env: Record<string, string>, wanted: RegExp): Promise<void> {
  return assert.rejects(startHere(loadConfig({ PORT: '0', ...env })), (error) => {
    assert(error instanceof StartError, String(error));
    assert.match(error.message, wanted);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  });
}

describe('node src/main.ts', () => {
  const folders: ChildFolder[] = [];
  let folder: ChildFolder;
  beforeEach(async () => {
    folder = await makeFolder();
    folders.push(folder);
  });
  after(() => Promise.all(folders.map((one) => one.remove())));

  const chat = async (url: string, body: object) => {
    const headers = { 'content-type': 'application/json' };
    return fetch(`${url}/api/chat`, { method: 'POST', headers, body: JSON.stringify(body) });
  };
  /** It ends by itself with code 1 and these lines on standard error, and nothing of a stack anywhere. */
  const refuses = async (child: ChildServer, ...wanted: RegExp[]) => {
    assert.deepEqual(await child.exited(), { code: 1, signal: null });
    const said = child.errors.join('\n');
    assert.equal(child.errors.length, wanted.length, said);
    for (const [n, pattern] of wanted.entries()) assert.match(child.errors[n] ?? '', pattern);
    assert.doesNotMatch(`${said}\n${JSON.stringify(child.lines)}`, /\bat .*:\d+:\d+/);
  };

  it('in a clean folder serves with SQLite and the demo model, says so, and keeps what was said over a restart', async () => {
    const child = folder.start();
    const started = await child.line(/ listens on /);
    const url = await child.listening();
    assert.equal(started.upstream, 'demo model, answers are canned');
    assert.equal(started.database, `SQLite ${join(folder.path, 'data', 'chat.sqlite')}`);
    assert.deepEqual(started.changed, { PORT: '0' });
    assert.match(String(started.msg), /^chat-api-server \d+\.\d+\.\d+ listens on http:\/\/127\.0\.0\.1:\d+$/);
    const id = crypto.randomUUID();
    const answer = await chat(url, { message: '你好', conversation_id: id });
    assert.equal(answer.status, 200);
    assert.match(String(Reflect.get(Object(await answer.json()), 'response')), /演示/);
    assert.deepEqual(await readdir(folder.path), ['data']);
    assert.deepEqual(child.errors, []);
    child.process.send?.('shutdown');
    assert.deepEqual(await child.exited(), { code: 0, signal: null });

    const again = folder.start();
    const shown = await fetch(`${await again.listening()}/api/conversations/${id}`);
    assert.match(await shown.text(), /"content":"你好"/);
    assert(!again.lines.some(({ msg }) => msg === 'migrated the database'));
  });

  it('reads .env and .env.<NODE_ENV>, the environment before both, names what differs without secrets', async () => {
    const common = [
      'OPENAI_API_KEY=sk-from-a-file',
      'OPENAI_MODEL=from-env',
      'HISTORY_LIMIT=4',
      'LOG_LEVEL=',
    ];
    const place = 'DATABASE_URL=sqlite:elsewhere/my.sqlite';
    await writeFile(
      join(folder.path, '.env'),
      [...common, place, 'LINK_SECRET=a-secret-from-a-file-of-24'].join('\n'),
    );
    await writeFile(
      join(folder.path, '.env.staging'),
      'HISTORY_LIMIT=6\nOPENAI_BASE_URL=http://127.0.0.1:9/v1\n',
    );
    const child = folder.start({ NODE_ENV: 'staging', OPENAI_MODEL: 'from-the-environment' });
    const { changed, upstream, database } = await child.line(/ listens on /);
    assert.equal(upstream, 'http://127.0.0.1:9/v1');
    assert.equal(database, `SQLite ${join(folder.path, 'elsewhere', 'my.sqlite')}`);
    assert((await readdir(join(folder.path, 'elsewhere'))).includes('my.sqlite'));
    assert.deepEqual(changed, {
      PORT: '0',
      DATABASE_URL: '(set)',
      OPENAI_API_KEY: '(set)',
      LINK_SECRET: '(set)',
      OPENAI_BASE_URL: 'http://127.0.0.1:9/v1',
      OPENAI_MODEL: 'from-the-environment',
      HISTORY_LIMIT: '6',
    });
    assert.doesNotMatch(JSON.stringify(child.lines), /sk-from|a-secret-from/);
  });

  it('refuses wrong settings with one line each, without a secret or a stack', async () => {
    const child = folder.start({
      PORT: 'abc',
      MAX_GENERATIONS: '0',
      OPENAI_HEADERS: '{"authorization":"top secret"',
      DATABASE_URL: 'postgres://me:hidden@db/x',
    });
    await refuses(
      child,
      /^The server cannot start with these settings:$/,
      /^PORT must be .*65535; it is "abc"$/,
      /^DATABASE_URL names PostgreSQL, which is not supported: .*; it is a value that is not shown here$/,
      /^OPENAI_HEADERS must be .*; it is a value that is not shown here$/,
      /^MAX_GENERATIONS must be .*; it is "0"$/,
    );
    assert.doesNotMatch(child.errors.join(), /secret"|hidden/);
    assert.deepEqual(await readdir(folder.path), []);
  });

  it('refuses a port that is in use with a readable line', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const address = other.address();
    assert(address !== null && typeof address === 'object');
    const env = { PORT: String(address.port), DATA_DIR: folder.path };
    await refusesHere(env, new RegExp(`^port ${address.port} on 127.0.0.1 is in use`));
    other.close();
  });

  it('refuses an address of another machine with a readable line, in LOG_FILE too', async () => {
    const log = join(folder.path, 'logs', 'chat.log');
    const child = folder.start({ HOST: '192.0.2.1', AUTH: 'off', LOG_FILE: log });
    await refuses(child, /^The server cannot start: HOST 192\.0\.2\.1 is not an address of this machine$/);
    const last: unknown = JSON.parse((await readFile(log, 'utf8')).trim().split('\n').at(-1) ?? '');
    assert.match(JSON.stringify(last), /"level":"fatal",.*could not start: HOST 192/);
  });

  it('rejects folders that cannot be created', { timeout: 60_000 }, async () => {
    await writeFile(join(folder.path, 'file'), '');
    // Creating a folder in /proc fails with ENOENT, which sends Node's recursive mkdir into an endless loop.
    const path = process.platform === 'linux' ? '/proc/foo' : join(folder.path, 'file', 'x');
    const DATABASE_URL = `sqlite:${join(path, 'chat.sqlite')}`;
    const LOG_FILE = join(path, 'chat.log');
    await Promise.all([
      ...[join(folder.path, 'file'), join(folder.path, 'file', 'x'), path, join(path, 'x')].map((DATA_DIR) =>
        refusesHere({ DATA_DIR }, /^DATA_DIR \S+ cannot be used: E[A-Z]+: /),
      ),
      refusesHere({ DATA_DIR: folder.path, DATABASE_URL }, /^the database cannot be opened: E[A-Z]+: /),
      refuses(
        folder.start({ LOG_FILE }),
        /^The server cannot start: LOG_FILE \S+ cannot be opened: E[A-Z]+: /,
      ),
    ]);
  });

  it('waits for a database or journal that another program has locked, and then says so', async (t) => {
    const lock = async (name: string) => {
      const DATA_DIR = join(folder.path, name);
      await mkdir(DATA_DIR);
      const file = new Sqlite(join(DATA_DIR, `${name}.sqlite`));
      t.after(() => file.close());
      file.exec('BEGIN EXCLUSIVE');
      return { DATA_DIR };
    };
    await Promise.all([
      refusesHere(await lock('chat'), /^the database file is locked by another program$/),
      refusesHere(
        await lock('journal'),
        /^DATA_DIR \S+ cannot be used: its journal.sqlite is locked by another program$/,
      ),
    ]);
  });

  it('rejects a DATA_DIR or an SQLite file on a disk that is full or read-only', {
    timeout: 30_000,
  }, async (t) => {
    const disk = smallDisk(64);
    if (!disk) return t.skip('needs root on Linux');
    t.after(() => disk.remove());
    const refusal = /^DATA_DIR \S+ cannot be used: /;
    await writeFile(join(disk.folder, 'filler'), Buffer.alloc(60 * 1024));
    await refusesHere({ DATA_DIR: disk.folder }, refusal);
    const DATABASE_URL = `sqlite:${join(disk.folder, 'chat.sqlite')}`;
    const full = /^the database file cannot be used \(SQLITE_(FULL|IOERR\w*)\)$/;
    await refusesHere({ DATA_DIR: folder.path, DATABASE_URL }, full);
    spawnSync('mount', ['-o', 'remount,ro', disk.folder]);
    const paths = [disk.folder, join(disk.folder, 'data')];
    await Promise.all(paths.map((DATA_DIR) => refusesHere({ DATA_DIR }, refusal)));
  });

  it('rejects a DATA_DIR that holds turns, or a running server, of another database', async () => {
    const child = folder.start();
    await child.listening();
    const DATA_DIR = join(folder.path, 'data');
    const other = { DATABASE_URL: `sqlite:${join(folder.path, 'other.sqlite')}`, DATA_DIR };
    const wanted =
      /^DATA_DIR .* cannot be used: it holds turns, or a running server, of another database \(SQLite .*chat\.sqlite\)\. Give each database a DATA_DIR of its own/;
    await refusesHere(other, wanted);
    // Of the same database there can be many.
    await (await startHere(loadConfig({ PORT: '0', DATA_DIR }))).stop();
    child.process.kill('SIGKILL');
    await child.exited();
  });

  it('takes over a DATA_DIR without turns from another database, and rejects one with turns', async () => {
    const first = { PORT: '0', DATA_DIR: join(folder.path, 'data') };
    const second = { ...first, DATABASE_URL: `sqlite:${join(folder.path, 'other.sqlite')}` };
    for (const env of [first, second]) await (await startHere(loadConfig(env))).stop();
    const journal = new Journal(join(first.DATA_DIR, 'journal.sqlite'), 1e6);
    await journal.append({ start: startOf(userMessage(newId())) });
    await journal.close();
    await refusesHere(first, /another database \(SQLite .*other\.sqlite\)/);
    assert.match(await readFile(join(first.DATA_DIR, 'database.txt'), 'utf8'), /other\.sqlite$/m);
  });

  it('ends on a signal while it waits for a database that does not respond', async (t) => {
    const silent = createServer().listen(0, '127.0.0.1');
    await once(silent, 'listening');
    t.after(() => silent.close());
    const address = silent.address();
    assert(address !== null && typeof address === 'object');
    const DATABASE_URL = `mysql://u:p@127.0.0.1:${address.port}/x`;
    const child = folder.start({ DATABASE_URL, DB_ACQUIRE_TIMEOUT_MS: '60000' });
    const [socket]: Socket[] = await once(silent, 'connection');
    t.after(() => socket?.destroy());
    const began = performance.now();
    child.process.send?.('shutdown');
    assert.deepEqual(await child.exited(), { code: 0, signal: null });
    // The driver waits for DB_ACQUIRE_TIMEOUT_MS.
    assert(performance.now() - began < 20_000);
    assert.equal(child.lines.at(-1)?.msg, 'stopped');
  });

  it('closes what it has opened when a later step fails', async (t) => {
    const path = await mkdtemp(join(tmpdir(), 'chat-api-start-'));
    t.after(() => rm(path, { recursive: true, force: true }));
    await writeFile(join(path, 'words.txt'), 'word');
    const settings = { PORT: '0', DATA_DIR: path, CONTENT_FILTER_FILE: join(path, 'words.txt') };
    const { http, ...config } = loadConfig(settings);
    const broken = { ...config, http: { ...http, trustProxy: ['no address'] } };
    const before = openHandles(path);
    await assert.rejects(startHere(broken), /no address/);
    await until('nothing is open', () => openHandles(path).length <= before.length);
    assert.deepEqual(openHandles(path), before);
    assert.deepEqual(await readdir(join(path, 'workers')), []);
  });

  for (const place of databases(false).slice(1)) {
    it(`refuses to start while migrations are pending on ${place.name}, naming the command`, async (t) => {
      const { DATABASE_URL = '' } = await place.create();
      t.after(() => place.drop());
      const env = { PORT: '0', DATA_DIR: folder.path, DATABASE_URL };
      await refusesHere(env, /^.*\d+ migrations are pending.*"npm run migrate"/);
      const migrated = await startHere(loadConfig({ ...env, DB_AUTO_MIGRATE: 'on' }));
      assert.match(migrated.database.describe(), /^MySQL 127\.0\.0\.1:\d+\/chat_http_\w+$/);
      assert.equal((await chat(migrated.url, { message: 'x' })).status, 200);
      await migrated.stop();
    });
  }
});
