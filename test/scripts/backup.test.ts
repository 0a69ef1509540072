/** `npm run backup` and `npm run restore`. */
import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import Sqlite from 'better-sqlite3';
import * as z from 'zod';
import { type ChildFolder, makeFolder } from '../support/child-server.ts';
import { storedConversation } from '../support/export-data.ts';
import { type ScriptFolder, scriptFolder } from '../support/script.ts';
import { smallDisk } from '../support/small-disk.ts';

const CONVERSATIONS = 40;

function messages(file: string): unknown[] {
  const database = new Sqlite(file, { readonly: true });
  try {
    return database.prepare('SELECT * FROM messages ORDER BY id').all();
  } finally {
    database.close();
  }
}

async function filled(): Promise<ScriptFolder> {
  const folder = scriptFolder();
  const database = folder.open();
  await database.migrate();
  await database.close();
  const start = Date.UTC(2026, 0, 1);
  folder.fill(
    Array.from({ length: CONVERSATIONS }, (_, n) =>
      storedConversation(start + n, [`Question ${n}`, `Reply ${n} 😀`]),
    ),
  );
  return folder;
}

describe('npm run backup', () => {
  let folder: ScriptFolder;
  let target: string;

  before(async () => {
    folder = await filled();
  });
  beforeEach(() => {
    target = join(folder.path, '..', `backup-${crypto.randomUUID()}`);
  });
  after(() => folder.remove());

  it('copies a database that another process writes to, as it was at one moment', async () => {
    const writer = new Sqlite(join(folder.path, 'chat.sqlite'));
    writer.pragma('journal_mode = WAL');
    // Each transaction adds a pair: a copy with an odd number of rows would mix two moments.
    writer.exec('CREATE TABLE IF NOT EXISTS pairs (n INTEGER)');
    const insert = writer.prepare('INSERT INTO pairs VALUES (?)');
    const pair = writer.transaction((n: number) => [insert.run(n), insert.run(n)]);
    let [running, pairs] = [true, 0];
    const ended = folder.run('backup', target).finally(() => {
      running = false;
    });
    while (running) {
      pair(pairs++);
      await new Promise(setImmediate);
    }
    const { code, stdout, stderr } = await ended;
    assert.equal(code, 0, stderr);
    assert.match(String(stdout), /chat.sqlite: 40 conversations, \d+ messages/);
    const copy = new Sqlite(join(target, 'chat.sqlite'), { readonly: true });
    const count = Number(copy.prepare('SELECT count(*) FROM pairs').pluck().get());
    copy.close();
    writer.exec('DROP TABLE pairs');
    writer.close();
    assert(pairs > 0);
    assert.equal(count % 2, 0);
    assert.deepEqual(messages(join(target, 'chat.sqlite')), messages(join(folder.path, 'chat.sqlite')));
    rmSync(target, { recursive: true });
  });

  it('writes into no folder that has something in it, and into no part of the data', async () => {
    mkdirSync(target);
    writeFileSync(join(target, 'notes.txt'), 'mine');
    const full = await folder.run('backup', target);
    assert.equal(full.code, 1);
    assert.match(full.stderr, /is not empty/);
    assert.deepEqual(readdirSync(target), ['notes.txt']);
    const inside = await folder.run('backup', join(folder.path, 'backup'));
    assert.equal(inside.code, 1);
    assert.match(inside.stderr, /must be outside DATA_DIR/);
    assert(!existsSync(join(folder.path, 'backup')));
    rmSync(target, { recursive: true });
  });

  it('says that there is nothing, and what is missing on the command line', async () => {
    const empty = scriptFolder();
    const { code, stderr } = await empty.run('backup', target);
    empty.remove();
    assert.equal(code, 1);
    assert.match(stderr, /There is nothing to back up/);
    assert.equal((await folder.run('backup')).code, 2);
    assert.equal((await folder.run('backup', 'a', 'b')).code, 2);
    assert(!existsSync(target));
  });

  it('leaves nothing on a disk that is full, and fails', async (context) => {
    const disk = smallDisk(64);
    if (!disk) return context.skip('small disks need root on Linux');
    try {
      const { code, stderr } = await folder.run('backup', join(disk.folder, 'backup'));
      assert.equal(code, 1);
      assert.match(stderr, /full|ENOSPC/);
      assert.deepEqual(readdirSync(join(disk.folder, 'backup')), []);
    } finally {
      disk.remove();
    }
  });

  it('copies the journal alone where the database is on MySQL', async () => {
    const other = scriptFolder('mysql://chat:pa55-0f-the-backup@127.0.0.1:1/chat');
    const journal = new Sqlite(join(other.path, 'journal.sqlite'));
    journal.exec('CREATE TABLE entries (seq INTEGER); INSERT INTO entries VALUES (1), (2)');
    journal.close();
    const { code, stdout, stderr } = await other.run('backup', target);
    other.remove();
    assert.equal(code, 0, stderr);
    assert.match(String(stdout), /journal.sqlite: 2 entries/);
    assert.match(String(stdout), /mysqldump --single-transaction/);
    assert.deepEqual(readdirSync(target).sort(), ['journal.sqlite', 'manifest.json']);
    rmSync(target, { recursive: true });
  });
});

describe('npm run restore', () => {
  let source: ScriptFolder;
  let backup: string;
  let broken: string;
  let folder: ScriptFolder;

  before(async () => {
    source = await filled();
    backup = join(source.path, '..', `backup-${crypto.randomUUID()}`);
    broken = `${backup}-broken`;
    const { code, stderr } = await source.run('backup', backup);
    assert.equal(code, 0, stderr);
  });
  beforeEach(() => {
    folder = scriptFolder();
    rmSync(broken, { recursive: true, force: true });
    cpSync(backup, broken, { recursive: true });
  });
  after(() => {
    for (const path of [backup, broken]) rmSync(path, { recursive: true, force: true });
    source.remove();
  });

  async function refused(reason: RegExp, ...args: readonly string[]): Promise<void> {
    const before = readdirSync(folder.path);
    const { code, stderr } = await folder.run('restore', ...args);
    assert.equal(code, 1);
    assert.match(stderr, reason);
    assert.doesNotMatch(stderr, /\n\s+at /);
    assert.deepEqual(readdirSync(folder.path), before);
    folder.remove();
  }

  it('brings every row back into an empty folder', async () => {
    const { code, stderr } = await folder.run('restore', backup);
    assert.equal(code, 0, stderr);
    assert.deepEqual(messages(join(folder.path, 'chat.sqlite')), messages(join(source.path, 'chat.sqlite')));
    folder.remove();
  });

  it('asks before it replaces something, and renames what was there', async () => {
    const database = folder.open();
    await database.migrate();
    await database.close();
    const journal = join(folder.path, 'journal.sqlite');
    writeFileSync(journal, 'of the old database');
    const asked = await folder.run('restore', backup);
    assert.equal(asked.code, 1);
    assert.match(asked.stderr, /--yes/);
    assert.equal(messages(join(folder.path, 'chat.sqlite')).length, 0);
    const { code, stderr } = await folder.run('restore', backup, '--yes');
    assert.equal(code, 0, stderr);
    assert(messages(join(folder.path, 'chat.sqlite')).length > 0);
    const kept = readdirSync(folder.path).filter((name) => name.includes('.before-restore-'));
    assert(kept.some((name) => /^chat\.sqlite\.before-restore-\w+$/.test(name)));
    assert(kept.some((name) => /^journal\.sqlite\.before-restore-\w+$/.test(name)));
    folder.remove();
  });

  it('leaves no write-ahead log of an earlier database beside the restored one', async () => {
    const wal = join(folder.path, 'chat.sqlite-wal');
    writeFileSync(wal, 'pages of another database');
    const asked = await folder.run('restore', backup);
    assert.equal(asked.code, 1);
    const { code, stderr } = await folder.run('restore', backup, '--yes');
    assert.equal(code, 0, stderr);
    assert(!existsSync(wal));
    assert.deepEqual(messages(join(folder.path, 'chat.sqlite')), messages(join(source.path, 'chat.sqlite')));
    folder.remove();
  });

  it('restores nothing from a folder without a manifest, or with another one', async () => {
    rmSync(join(broken, 'manifest.json'));
    await refused(/is not a complete backup/, broken);
    folder = scriptFolder();
    writeFileSync(join(broken, 'manifest.json'), '{"files":[]}');
    await refused(/is not a complete backup/, broken);
  });

  it('restores nothing when a file is missing, damaged or changed', async () => {
    const file = join(broken, 'chat.sqlite');
    const bytes = readFileSync(file);
    const changed = Buffer.from(bytes);
    changed[bytes.length - 10] = (changed.at(-10) ?? 0) ^ 0xff;
    writeFileSync(file, changed);
    await refused(/is damaged/, broken);
    folder = scriptFolder();
    writeFileSync(file, bytes.subarray(0, bytes.length / 2));
    await refused(/is damaged/, broken);
    folder = scriptFolder();
    rmSync(file);
    await refused(/is missing/, broken);
  });

  it('restores no backup of a newer version', async () => {
    const newer = await filled();
    const database = new Sqlite(join(newer.path, 'chat.sqlite'));
    database.exec("INSERT INTO knex_migrations (name, batch) VALUES ('20990101000000_later', 2)");
    database.close();
    rmSync(broken, { recursive: true });
    await newer.run('backup', broken);
    newer.remove();
    await refused(/is of a newer version: it has the migration 20990101000000_later/, broken);
  });
});

describe('a restored server', () => {
  let folder: ChildFolder;

  before(async () => {
    folder = await makeFolder();
  });
  after(() => folder.remove());

  it('has the conversation, and is not restored into while it runs', async () => {
    const source = scriptFolder();
    const backup = `${source.path}-backup`;
    const settings = { DATA_DIR: source.path };
    try {
      const server = folder.start(settings);
      const url = await server.listening();
      const asked = await fetch(`${url}/api/chat`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ message: 'Keep this' }),
      });
      const { conversation_id } = z.object({ conversation_id: z.string() }).parse(await asked.json());
      const saved = await source.start('backup', [backup]).ended;
      assert.equal(saved.code, 0, saved.stderr);
      const refused = await source.run('restore', backup, '--yes');
      assert.equal(refused.code, 1);
      assert.match(refused.stderr, /1 server processes use/);
      server.process.kill('SIGTERM');
      await server.exited();
      rmSync(source.path, { recursive: true });
      mkdirSync(source.path);
      const restored = await source.start('restore', [backup]).ended;
      assert.equal(restored.code, 0, restored.stderr);
      const again = await folder.start(settings).listening();
      const conversation = await (await fetch(`${again}/api/conversations/${conversation_id}`)).text();
      assert.match(conversation, /Keep this/);
    } finally {
      rmSync(backup, { recursive: true, force: true });
      source.remove();
    }
  });
});
