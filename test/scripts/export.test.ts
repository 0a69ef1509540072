import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { createProgress } from '../../scripts/export-lib/progress.ts';
import { unpacked } from '../../scripts/export-lib/unpack.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import { Retention } from '../../src/domain/conversations/retention.ts';
import type { JobScope } from '../../src/domain/exports/jobs.ts';
import { CursorCodec } from '../../src/services/exports/cursor-codec.ts';
import { ExportService } from '../../src/services/exports/exports.ts';
import { EMPTY_CHECKPOINT } from '../../src/services/exports/write-export.ts';
import { readCsv } from '../support/csv.ts';
import { eachDatabase } from '../support/databases.ts';
import { csvRows, inOrder, shown, store, storedConversation } from '../support/export-data.ts';
import { scriptFolder } from '../support/script.ts';

const EXPORTED = /^exported \d+ conversations, \d+ messages, \d+ bytes\n$/;
const HOUR = 3_600_000;

const folder = scriptFolder();
const file = (name: string) => join(folder.path, name);
const read = (name: string) => readFileSync(file(name));
const json = (name: string) => JSON.parse(read(name).toString());
const run = (...args: string[]) => folder.run('export', ...args);

const began = Date.now() - HOUR;
const TEXTS = [
  '=1+1, "please"\r\n',
  'an answer 好 😀 '.repeat(150),
  "'quoted",
  '# 标题\n\n- 一\n- 二\n'.repeat(80),
];
const conversations = Array.from({ length: 900 }, (_, index) =>
  storedConversation(began + index, index % 100 === 7 ? [] : TEXTS),
);

before(async () => {
  const { code, stderr } = await run();
  assert.deepEqual(
    [code, stderr],
    [1, 'The schema of the database is older than this version: run npm run migrate\n'],
  );
  const database = folder.open();
  await database.migrate();
  await database.close();
  folder.fill(conversations);
});
after(() => folder.remove());

async function verified(name: string): Promise<void> {
  const { code, stdout, stderr } = await folder.run('export-verify', name);
  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout.toString(), /^[^\n]+ is complete: [^\n]+\n$/);
}

function left(name: string): string[] {
  return readdirSync(folder.path).filter((entry) => entry.startsWith(`${name}.`) || entry === name);
}

describe('npm run export', () => {
  it('writes the file with its manifest, and is silent without a terminal', async () => {
    const { code, stdout, stderr } = await run('--format', 'csv', '--out', 'a.csv');
    assert.deepEqual([code, stdout.toString()], [0, '']);
    assert.match(stderr, EXPORTED);
    const text = read('a.csv').toString();
    assert.ok(text.startsWith('\uFEFF'));
    const [, ...rows] = readCsv(text.slice(1));
    const expected = csvRows(conversations);
    assert.equal(rows.length, expected.length);
    // The difference of whole tables would take gigabytes.
    for (const [at, row] of rows.entries()) {
      const [content = ''] = row.splice(5, 1);
      assert.deepEqual(row.toSpliced(5, 0, content.replace(/(^|[\r\n])'/g, '$1')), expected[at]);
    }
    const { conversations: count, messages, csv } = json('a.csv.manifest.json');
    assert.deepEqual([count, messages, csv], [900, 4 * 891, 'escaped']);
    assert.deepEqual(left('a.csv').sort(), ['a.csv', 'a.csv.manifest.json']);
    await verified('a.csv');
  });

  it('filters by date, role and status, to standard output too', async () => {
    const [first, last] = [conversations[200], conversations[209]];
    assert(first && last);
    const bounds = ['--start', shown(first.created_at), '--end', shown(last.created_at)];
    const args = ['--format', 'ndjson', '--role', 'user', '--status', 'complete', ...bounds];
    const [piped, dash] = [await run(...args), await run(...args, '--out', '-')];
    assert.equal(piped.code, 0);
    assert.match(piped.stderr, EXPORTED);
    assert.deepEqual(dash.stdout, piped.stdout);
    const lines = piped.stdout
      .toString()
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.deepEqual(
      lines.map(({ conversation_id }) => conversation_id),
      inOrder(conversations.slice(200, 210).filter(({ messages }) => messages.length > 0)).map(
        ({ id }) => id,
      ),
    );
    assert.ok(lines.every(({ messages }) => messages.every(({ role }: { role: string }) => role === 'user')));
    assert.equal((await run(...args, '--out', 'b.ndjson')).code, 0);
    assert.deepEqual(read('b.ndjson'), piped.stdout);
    await verified('b.ndjson');
  });

  it('compresses to standard output as well', async () => {
    const args = ['--format', 'csv', '--csv', 'raw', '--start', shown(conversations[500]?.created_at ?? '')];
    const plain = (await run(...args)).stdout;
    assert.ok(plain.length > 100_000 && plain.toString().startsWith('conversation_id,'));
    assert.deepEqual(gunzipSync((await run(...args, '--compression', 'gzip')).stdout), plain);
    const packed = (await run(...args, '--compression', 'zstd')).stdout;
    assert.deepEqual(await buffer(unpacked(Readable.from([packed]), 'zstd')), plain);
  });

  it('ends silently when its reader closes the pipe', async () => {
    const { child, ended } = folder.start('export', ['--format', 'json']);
    child.stdout?.once('data', () => child.stdout?.destroy());
    const { code, stderr } = await ended;
    assert.deepEqual([code, stderr], [1, '']);
  });

  it('exports changes and deletions since an earlier export', async () => {
    assert.equal((await run('--format', 'ndjson', '--out', 'whole')).code, 0);
    const { cursor } = json('whole.manifest.json');
    const database = folder.open();
    const gone = String(conversations[5]?.id);
    await database.conversations.delete(gone, UNRESTRICTED);
    await database.close();
    const added = storedConversation(Date.now(), ['new']);
    folder.fill([added]);
    assert.equal((await run('--format', 'json', '--since', cursor, '--out', 'since.json')).code, 0);
    await verified('since.json');
    const ids = json('since.json').conversations.map(
      (one: { conversation_id: string }) => one.conversation_id,
    );
    assert.ok(ids.includes(gone) && ids.includes(added.id));
    assert.equal(json('since.json.manifest.json').deleted, 1);
  });

  it('prints its usage', async () => {
    const { code, stdout } = await run('--help');
    assert.equal(code, 0);
    for (const option of ['--format', '--start', '--since', '--out', '--restart']) {
      assert.ok(stdout.includes(option), option);
    }
  });
});

eachDatabase((_name, open, { target }) => {
  it('writes the same bytes as a download from the server', async (t) => {
    const own = scriptFolder(target.kind === 'mysql' ? target.url : `sqlite:${target.file}`);
    t.after(() => own.remove());
    const database = open();
    await store(database, conversations.slice(0, 60));
    const cursors = new CursorCodec(async () => [await database.secrets.get('link')]);
    const exports = new ExportService(database.exports, cursors, Date, new Retention(24 * HOUR));
    for (const format of ['csv', 'ndjson'] as const) {
      const filter = { owner: null, from: null, to: null, role: null, status: null };
      const { chunks } = await exports.start({ filter }, { format, raw: false });
      const direct = await buffer(chunks);
      const args = ['--format', format, '--out', 'x'];
      const alone = format === 'csv' && target.kind === 'sqlite';
      const ended = alone ? own.start('export', args).ended : own.run('export', ...args);
      const { code, stderr } = await ended;
      assert.equal(code, 0);
      assert.match(stderr, EXPORTED);
      assert.ok(direct.length > 10_000 && direct.equals(readFileSync(join(own.path, 'x'))));
      const { cursor } = JSON.parse(readFileSync(join(own.path, 'x.manifest.json'), 'utf8'));
      assert.ok(await cursors.decode(cursor), 'its cursor is one of the server');
    }
  });
});

describe('an invalid command line of an export', () => {
  for (const [args, message] of [
    [['--format', 'xml'], /^--format must be json, csv or ndjson\n$/],
    [['--start', '2024-02-30'], /^--start must be a day such as /],
    [['--end', '2024-03-21T10:00:00'], /^--end must be a day such as /],
    [['--start', '2024-03-02', '--end', '2024-03-01'], /^--end must not be before --start\n$/],
    [['--role', 'developer', '--csv', 'yes'], /^--role must be .*\n--csv must be "raw".*\n$/],
    [['--compression', 'br'], /^--compression must be /],
    [['--since', 'forged'], /^--since must be the cursor of a manifest/],
    [['--since', 'forged', '--format', 'csv'], /^--since must not be used with csv/],
    [['--out'], /^Option '--out <value>' argument missing\nusage:/],
    [['--outt', 'x'], /^Unknown option '--outt'\nusage:/],
    [['FILE'], /^Unexpected argument 'FILE'\nusage:/],
    [['--out', 'no/such/folder/x'], /ENOENT/],
  ] as const) {
    it(`is rejected in one line and leaves no files: ${args.join(' ')}`, async () => {
      const { code, stdout, stderr } = await run(...(args[0] === '--out' ? [] : ['--out', 'x']), ...args);
      assert.deepEqual([code, stdout.length], [stderr.includes('usage:') ? 2 : 1, 0]);
      assert.match(stderr, message);
      assert.doesNotMatch(stderr, /\n\s+at /);
      assert.deepEqual(left('x'), []);
    });
  }
});

describe('the progress bar', () => {
  const scope = (messages: number) => ({ messages, conversations: 10 }) as JobScope;
  const terminal = (isTTY: boolean) => {
    const stream = Object.assign(new PassThrough({ encoding: 'utf8' }), { isTTY, columns: 200 });
    return { stream: stream as unknown as NodeJS.WriteStream, text: () => String(stream.read() ?? '') };
  };

  it('shows rows, size, rate and remaining time on a terminal', () => {
    const { stream, text } = terminal(true);
    const progress = createProgress(stream);
    progress.begin(scope(2000), { ...EMPTY_CHECKPOINT, messages: 500 });
    progress.update({ ...EMPTY_CHECKPOINT, messages: 1500, bytes: 12_345_678 });
    progress.end();
    assert.match(text(), /75% \| 1,500 rows \| 12\.3 MB \| [\d,]+ rows\/s \| \d+ s left/);
  });

  it('counts conversations if there are no messages', () => {
    const { stream, text } = terminal(true);
    const progress = createProgress(stream);
    progress.begin(scope(0), EMPTY_CHECKPOINT);
    progress.update({ ...EMPTY_CHECKPOINT, conversations: 5 });
    progress.end();
    assert.match(text(), /50% \| 5 rows/);
  });

  it('writes nothing elsewhere, nor before it starts', () => {
    for (const isTTY of [false, true]) {
      const { stream, text } = terminal(isTTY);
      const progress = createProgress(stream);
      if (!isTTY) progress.begin(scope(1), EMPTY_CHECKPOINT);
      progress.end();
      assert.equal(text(), '');
    }
  });
});
