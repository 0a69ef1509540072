/** `npm run import` with files of any size and state, and its options. */
import assert from 'node:assert/strict';
import { createWriteStream, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { after, before, describe, it } from 'node:test';
import { createGzip, gzipSync, zstdCompressSync } from 'node:zlib';
import Sqlite from 'better-sqlite3';
import { v7 } from 'uuid';
import packageJson from '../../package.json' with { type: 'json' };
import { type Ended, type ScriptFolder, scriptFolder } from '../support/script.ts';

const AT = '2026-03-21T08:30:00.000Z';
/** Those of `npm run import`. */
const FLAGS = packageJson.scripts.import.split(' ').filter((word) => /^--max|^--heap/.test(word));
const PEAK = 'data:text/javascript,process.on("exit",()=>console.log(process.resourceUsage().maxRSS))';
const MEMORY_KB = 64 * 1024;

function line(over: object = {}): string {
  const message = { id: v7(), role: 'user', content: 'q', timestamp: AT };
  return JSON.stringify({
    conversation_id: v7(),
    created_at: AT,
    last_active: AT,
    messages: [message],
    ...over,
  });
}

describe('npm run import', () => {
  let folder: ScriptFolder;
  const path = (name: string) => join(folder.path, name);
  const counts = ({ code, stdout, stderr }: Ended) => {
    assert.equal(stderr, '');
    return { code, ...JSON.parse(stdout.toString()) };
  };
  const run = async (content: string | Buffer, ...args: string[]) => {
    writeFileSync(path('file'), content);
    return counts(await folder.run('import', 'file', ...args));
  };
  const rows = (id: string) => {
    const database = new Sqlite(path('chat.sqlite'), { readonly: true });
    const found = database.prepare('SELECT owner, pinned FROM conversations WHERE id = ?').all(id);
    database.close();
    return found;
  };
  const large = async (name: string, chunks: () => Iterable<string>) => {
    await pipeline(Readable.from(chunks()), createGzip({ level: 1 }), createWriteStream(path(name)));
  };
  const peak = async (file: string) => {
    const { stdout } = await folder.start('import', [file], [...FLAGS, '--import', PEAK]).ended;
    const [, json = '', kilobytes = ''] = /^([\s\S]*\})\n(\d+)\n$/.exec(stdout.toString()) ?? [];
    return { counts: JSON.parse(json), kilobytes: Number(kilobytes) };
  };
  /** The peak memory of an import of nothing. */
  let idle: number;
  const measured = (name: string) =>
    peak(name).then(({ counts, kilobytes }) => ({ counts, more: kilobytes - idle }));
  before(async () => {
    assert.equal(FLAGS.length, 2);
    folder = scriptFolder();
    assert.equal((await folder.run('migrate', 'latest')).code, 0);
    writeFileSync(path('empty'), '');
    idle = (await peak('empty')).kilobytes;
  });
  after(() => folder.remove());

  it('reads standard input, and gives conversations the owner', async () => {
    const id = v7();
    const { child, ended } = folder.start('import', ['-', '--owner', 'ada']);
    child.stdin?.end(zstdCompressSync(line({ conversation_id: id })));
    const result = counts(await ended);
    assert.deepEqual([result.code, result.imported], [0, 1]);
    assert.deepEqual(rows(id), [{ owner: 'ada', pinned: 0 }]);
    assert.equal((await run(line({ conversation_id: id }), '--replace', '--owner', 'bob')).replaced, 1);
    assert.deepEqual(rows(id), [{ owner: 'bob', pinned: 0 }]);
    assert.equal((await run(line({ conversation_id: id }), '--replace')).replaced, 1);
    assert.deepEqual(rows(id), [{ owner: 'bob', pinned: 0 }]);
  });

  it('counts conversations that are past their retention, except pinned ones', async () => {
    const now = new Date().toISOString();
    const lines = [line(), line({ pinned: true }), line({ last_active: now }), line()];
    const result = await run(lines.join('\n'));
    assert.deepEqual([result.imported, result.expired], [4, 2]);
    const id = v7();
    const pinned = await run(line({ conversation_id: id }), '--pin');
    assert.deepEqual([pinned.imported, pinned.expired], [1, 0]);
    assert.deepEqual(rows(id), [{ owner: null, pinned: 1 }]);
  });

  it('imports a compressed file up to where it is cut', async () => {
    const lines = Array.from({ length: 300 }, () => line());
    for (const compressed of [gzipSync(lines.join('\n')), zstdCompressSync(lines.join('\n'))]) {
      const cut = await run(compressed.subarray(0, compressed.length / 2));
      assert.deepEqual([cut.code, cut.failed], [1, 1]);
      assert.equal(cut.errors[0].message, 'the compressed data is damaged or ends too early');
      assert.ok(cut.imported + cut.skipped < 300);
      const whole = await run(compressed);
      assert.deepEqual([whole.code, whole.imported + whole.skipped], [0, 300]);
    }
  });

  it('imports each conversation once when two processes read the same file', async () => {
    writeFileSync(path('file'), Array.from({ length: 300 }, () => line()).join('\n'));
    const both = [folder.start('import', ['file']).ended, folder.run('import', 'file')];
    const [one, two] = (await Promise.all(both)).map(counts);
    assert.deepEqual([one.code, two.code, one.failed, two.failed], [0, 0, 0, 0]);
    assert.deepEqual([one.imported + two.imported, one.skipped + two.skipped], [300, 300]);
    assert.equal(one.messages + two.messages, 300);
  });

  it('reads 20,000 lines with a hundred errors in the result, in bounded memory', async () => {
    // 70 MB: more than the bound.
    await large('lines', function* () {
      for (let n = 1; n <= 20_000; n++)
        yield n % 100 === 0 ? `${line()}\n` : `{"n":${n},"cut":"${'x'.repeat(n % 7000)}\n`;
    });
    const { counts, more } = await measured('lines');
    assert.deepEqual([counts.imported, counts.failed, counts.errors.length], [200, 19_800, 100]);
    assert.deepEqual(counts.errors[99], { line: 101, message: 'is not JSON' });
    assert.ok(more < MEMORY_KB, `${more} KB`);
  });

  it('reads a line of 75 MB, and a small file that becomes one, in bounded memory', async () => {
    const message = () =>
      `{"id":"${v7()}","role":"user","content":"${'x'.repeat(50_000)}","timestamp":"${AT}"}`;
    const [begin = '', end = ''] = line({ messages: ['@'] }).split('"@"');
    await large('bombs', function* () {
      yield `${line()}\n`;
      for (let n = 0; n < 750; n++) yield 'x'.repeat(100_000);
      yield `\n${begin}`;
      // 35 MB, of which a reader of whole lines has several copies.
      for (let n = 0; n < 700; n++) yield `${message()},`;
      yield `{}${end}\n${line()}`;
    });
    const { counts, more } = await measured('bombs');
    assert.deepEqual([counts.imported, counts.failed], [2, 2]);
    const [long, grown] = counts.errors;
    assert.deepEqual([counts.errors.length, long.line, grown.line], [2, 2, 3]);
    assert.match(grown.message, /^messages\.700\./);
    assert.ok(more < MEMORY_KB, `${more} KB`);
  });
});
