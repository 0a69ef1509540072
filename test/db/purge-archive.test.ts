import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { Retention } from '../../src/domain/conversations/retention.ts';
import { createPurgeArchive } from '../../src/files/purge-archive.ts';
import { PurgeService } from '../../src/services/conversations/purge.ts';
import { PurgeArchiver } from '../../src/services/exports/purge-archiver.ts';
import { eachDatabase } from '../support/databases.ts';
import {
  inOrder,
  type StoredConversation,
  shown,
  store,
  storedConversation,
} from '../support/export-data.ts';
import { silentLog } from '../support/fakes.ts';
import { FULL, smallDisk } from '../support/small-disk.ts';

const DAY = 86_400_000;
const NOW = Date.UTC(2026, 2, 21, 23, 0);
const FILE = 'conversations-2026-03-21.ndjson.gz';
const MANIFEST = 'conversations-2026-03-21.manifest.json';

/** What the archive should have of a conversation. */
function archived({ id, created_at, last_active, messages }: StoredConversation) {
  return {
    conversation_id: id,
    created_at: shown(created_at),
    last_active: shown(last_active),
    expires_at: new Date(Date.parse(shown(last_active)) + DAY).toISOString(),
    messages: messages.map(({ uid, timestamp, ...rest }) => ({
      id: uid,
      timestamp: shown(timestamp),
      ...rest,
    })),
  };
}

function conversations(count: number, at: number, over: Partial<StoredConversation> = {}) {
  return Array.from({ length: count }, (_, index) => {
    const text = 'x'.repeat(index % 10 === 0 ? 20_000 : 20);
    return storedConversation(at + index, ['a question', '答え 😀 "=1+1"\r\n', text, ''], over);
  });
}

const byId = (list: readonly { readonly conversation_id: string }[]) =>
  [...list].sort((a, b) => (a.conversation_id < b.conversation_id ? -1 : 1));

function read(folder: string, file = FILE) {
  const packed = readFileSync(join(folder, file));
  const lines = gunzipSync(packed).toString().split('\n').slice(0, -1);
  return { packed, lines: lines.map((line) => JSON.parse(line)) };
}

/** The manifest, after it was compared with the file. */
function proven(folder: string) {
  const manifest = JSON.parse(readFileSync(join(folder, MANIFEST), 'utf8'));
  const { packed, lines } = read(folder);
  const ids = lines.flatMap(({ messages }) => messages.map((message: { id: string }) => message.id));
  assert.deepEqual(
    {
      conversations: lines.length,
      messages: ids.length,
      bytes: packed.length,
      sha256: createHash('sha256').update(packed).digest('hex'),
      first_message_id: ids[0] ?? null,
      last_message_id: ids.at(-1) ?? null,
    },
    {
      conversations: manifest.conversations,
      messages: manifest.messages,
      bytes: manifest.bytes,
      sha256: manifest.sha256,
      first_message_id: manifest.first_message_id,
      last_message_id: manifest.last_message_id,
    },
  );
  return lines;
}

eachDatabase((_name, open) => {
  async function setUp(t: TestContext, folder = mkdtempSync(join(tmpdir(), 'chat-archive-'))) {
    const database = open();
    await database.knex('conversations').delete();
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    const warnings: object[] = [];
    const log = { ...silentLog, warn: (fields: object) => void warnings.push(fields) };
    const clock = { time: NOW, now: () => clock.time };
    const signal = new AbortController().signal;
    return {
      ...database,
      folder,
      clock,
      warnings,
      save: (list: readonly StoredConversation[]) => store(database, list),
      left: () => database.knex('conversations').pluck('id'),
      /** A run of a process that has just started. */
      run(at = folder) {
        const archiver = new PurgeArchiver(
          database.exports,
          createPurgeArchive(at, log),
          clock,
          new Retention(DAY),
        );
        return new PurgeService(database.purge, clock, new Retention(DAY), silentLog, archiver).run(signal);
      },
    };
  }

  describe('what is purged', () => {
    test('is in the archive of its day, whole, with a manifest that is true, and the rest is not', async (t) => {
      const { run, folder, left, save } = await setUp(t);
      const old = conversations(150, NOW - 3 * DAY);
      const fresh = conversations(2, NOW - 1000);
      await save([...old, ...fresh]);
      const { outcome, ...count } = await run();
      assert.deepEqual([outcome, count], ['done', { conversations: 150, messages: 600 }]);
      assert.deepEqual(byId(proven(folder)), byId(old.map(archived)));
      assert.deepEqual((await left()).sort(), fresh.map(({ id }) => id).sort());
      assert.deepEqual(readdirSync(folder).sort(), [MANIFEST, FILE].sort());
    });

    test('is appended by later runs of that day, and goes to another file the day after', async (t) => {
      const { run, folder, clock, save } = await setUp(t);
      const [one, two, three] = [5, 3, 2].map((count) => conversations(count, NOW - 3 * DAY));
      for (const batch of [one, two]) {
        await save(batch ?? []);
        await run();
      }
      assert.deepEqual(byId(proven(folder)), byId([...(one ?? []), ...(two ?? [])].map(archived)));
      const before = read(folder).packed;
      clock.time += 2 * 3_600_000;
      await save(three ?? []);
      await run();
      assert.deepEqual(read(folder).packed, before);
      assert.equal(read(folder, 'conversations-2026-03-22.ndjson.gz').lines.length, 2);
    });

    test('comes in the order of the messages, also where there are more than a page of them', async (t) => {
      const { run, folder, save } = await setUp(t);
      const long = storedConversation(
        NOW - 3 * DAY,
        Array.from({ length: 2500 }, (_, at) => `text ${at}`),
      );
      await save([long]);
      await run();
      assert.deepEqual(proven(folder), inOrder([long]).map(archived));
    });
  });

  describe('an archive that cannot be written', () => {
    test('keeps everything from being purged, until it can be', async (t) => {
      const { run, folder, left, save } = await setUp(t);
      const old = conversations(3, NOW - 3 * DAY);
      await save(old);
      const place = join(folder, 'archive');
      writeFileSync(place, 'a file where the folder should be');
      await assert.rejects(run(place), { code: 'EEXIST' });
      assert.equal((await left()).length, 3);
      rmSync(place);
      assert.equal((await run(place)).conversations, 3);
      assert.deepEqual(byId(proven(place)), byId(old.map(archived)));
    });

    const disk = smallDisk(512);
    if (disk !== undefined) {
      test('for want of space stays what it was, and keeps what does not fit from being purged', async (t) => {
        const { run, left, save, knex, folder } = await setUp(t, join(disk.folder, 'archive'));
        t.after(disk.remove);
        const first = conversations(3, NOW - 3 * DAY);
        await save(first);
        await run();
        const noise = Array.from({ length: 40 }, () =>
          crypto.getRandomValues(Buffer.alloc(12_000)).toString('hex'),
        );
        const second = [storedConversation(NOW - 3 * DAY, noise)];
        await save(second);
        await assert.rejects(run(), FULL);
        assert.deepEqual(byId(proven(folder)), byId(first.map(archived)));
        assert.deepEqual(
          await left(),
          second.map(({ id }) => id),
        );
        await knex('messages').whereNot('uid', String(second[0]?.messages[0]?.uid)).delete();
        await run();
        assert.equal(proven(folder).length, 4);
        assert.deepEqual(await left(), []);
      });
    }
  });

  describe('after a crash', () => {
    test('the archive loses what had not been finished, and what was is at worst in it twice', async (t) => {
      const { run, folder, save, purge, exports, clock } = await setUp(t);
      const [one, two] = [4, 3].map((count) => conversations(count, NOW - 3 * DAY));
      await save(one ?? []);
      // The archive is written, and the process ends before the delete.
      const archiver = new PurgeArchiver(
        exports,
        createPurgeArchive(folder, silentLog),
        clock,
        new Retention(DAY),
      );
      await archiver.append((await purge.candidates(NOW - DAY, null, 10)).map(({ id }) => id));
      // And in the midst of the next member.
      const half = Buffer.concat([read(folder).packed.subarray(0, 100), Buffer.alloc(100_000, 'x')]);
      writeFileSync(join(folder, FILE), half, { flag: 'a' });
      await save(two ?? []);
      await run();
      const lines = proven(folder);
      assert.deepEqual(byId(lines.slice(4)), byId([...(one ?? []), ...(two ?? [])].map(archived)));
      assert.deepEqual(byId(lines.slice(0, 4)), byId((one ?? []).map(archived)));
    });

    test('of the first write of a day too', async (t) => {
      const { run, folder, save, clock, warnings } = await setUp(t);
      const broken = {
        lines: (async function* () {
          yield '{"conversation_id":';
          throw new Error('killed');
        })(),
        counts: () => ({ conversations: 1, messages: 0, firstMessageId: null, lastMessageId: null }),
      };
      await assert.rejects(createPurgeArchive(folder, silentLog).append(clock.time, broken), /killed/);
      writeFileSync(join(folder, FILE), 'half a member');
      const old = conversations(2, NOW - 3 * DAY);
      await save(old);
      await run();
      assert.deepEqual(byId(proven(folder)), byId(old.map(archived)));
      assert.equal(warnings.length, 0);
    });
  });

  describe('an archive that is not what its manifest says', () => {
    for (const [how, damage] of [
      ['shorter', (folder: string) => truncateSync(join(folder, FILE), 50)],
      ['gone', (folder: string) => rmSync(join(folder, FILE))],
      ['other bytes', (folder: string) => writeFileSync(join(folder, FILE), Buffer.alloc(1e6))],
      ['without a manifest', (folder: string) => rmSync(join(folder, MANIFEST))],
      ['with half a manifest', (folder: string) => truncateSync(join(folder, MANIFEST), 50)],
    ] as const) {
      test(`is set aside, and a new one begun: ${how}`, async (t) => {
        const { run, folder, save, warnings } = await setUp(t);
        await save(conversations(2, NOW - 3 * DAY));
        await run();
        damage(folder);
        const there = readdirSync(folder).length;
        const old = conversations(3, NOW - 3 * DAY);
        await save(old);
        await run();
        assert.deepEqual(byId(proven(folder)), byId(old.map(archived)));
        assert.equal(readdirSync(folder).length, 2 + there);
        assert.equal(warnings.length, there);
        assert.ok(existsSync(join(folder, MANIFEST)));
      });
    }
  });
});
