import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import type { Counter } from '../../scripts/export-lib/counts.ts';
import { countCsv, countRawCsv } from '../../scripts/export-lib/csv-counter.ts';
import { countJson, countNdjson } from '../../scripts/export-lib/json-counter.ts';
import { verifyExport } from '../../scripts/export-lib/verify.ts';
import type { ExportManifest } from '../../src/domain/exports/jobs.ts';
import { type StoredConversation, storedConversation } from '../support/export-data.ts';
import { scriptFolder } from '../support/script.ts';

const NOW = Date.now() - 60_000;
const folder = scriptFolder();
const path = (name: string) => join(folder.path, name);
const manifestOf = (name: string): ExportManifest =>
  JSON.parse(readFileSync(path(`${name}.manifest.json`), 'utf8'));

const TEXTS = [
  '=1+1',
  '"a", b\r\nc\n',
  '\uFEFF',
  '", "messages":[{"id":"x"}], "',
  '\\" \\u0000 {[',
  "'",
  '好 😀',
  '',
];
const conversations: StoredConversation[] = [
  storedConversation(NOW, TEXTS),
  storedConversation(NOW + 1, []),
  storedConversation(NOW + 2, ['x'.repeat(100_000), ...TEXTS]),
  storedConversation(NOW + 3, TEXTS, { id: '00000000-0000-4000-8000-000000000000' }),
];

const FORMS = [
  ['json', ['--format', 'json']],
  ['ndjson', ['--format', 'ndjson']],
  ['csv', ['--format', 'csv']],
  ['raw.csv', ['--format', 'csv', '--csv', 'raw']],
] as const;
const PACKED = ['none', 'gzip', 'zstd'] as const;

before(async () => {
  const database = folder.open();
  await database.migrate();
  await database.close();
  folder.fill(conversations);
  const runs = FORMS.flatMap(([name, args]) =>
    PACKED.map((packed) =>
      folder.run('export', ...args, '--compression', packed, '--out', `${name}.${packed}`),
    ),
  );
  for (const run of runs) assert.equal((await run).code, 0);
});
after(() => folder.remove());

/** A file with the manifest that it would have if it were meant so. */
function forged(name: string, bytes: Buffer | string, over: Partial<ExportManifest>): ExportManifest {
  const content = Buffer.from(bytes);
  writeFileSync(path('forged'), content);
  const sha256 = createHash('sha256').update(content).digest('hex');
  return { ...manifestOf(name), bytes: content.length, sha256, ...over };
}

describe('npm run export:verify', () => {
  for (const [name] of FORMS) {
    for (const packed of PACKED) {
      it(`accepts every export: ${name}, ${packed}`, async () => {
        const manifest = manifestOf(`${name}.${packed}`);
        assert.deepEqual([manifest.conversations, manifest.messages], [4, 25]);
        assert.deepEqual(await verifyExport(path(`${name}.${packed}`), manifest), []);
      });
    }
  }

  it('prints one line for a complete file, and exits with 0', async () => {
    const args = ['csv.gzip', 'csv.gzip.manifest.json'];
    const { code, stdout, stderr } = await folder.run('export-verify', ...args);
    const { bytes, sha256 } = manifestOf('csv.gzip');
    const said = `csv.gzip is complete: 4 conversations, 25 messages, 0 deleted, ${bytes} bytes, sha256 ${sha256}\n`;
    assert.deepEqual([code, stdout.toString(), stderr], [0, said, '']);
  });

  it('prints one line for a wrong file, and exits with 1', async () => {
    const { code, stdout, stderr } = await folder.run('export-verify', 'csv.none', 'json.none.manifest.json');
    assert.deepEqual([code, stdout.length, stderr.split('\n').length], [1, 0, 2]);
    assert.match(stderr, /^csv\.none does not match its manifest: bytes is \d+, not \d+; sha256 is /);
  });

  for (const [args, expected, message] of [
    [[], 2, /usage: /],
    [['a', 'b', 'c'], 2, /usage: /],
    [['no-such-file', 'json.none.manifest.json'], 1, /ENOENT/],
    [['json.none', 'json.none'], 1, /^json\.none is not an export manifest\n$/],
    [['json.none', 'csv.gzip'], 1, /^csv\.gzip is not an export manifest\n$/],
    [['--x'], 2, /--x/],
  ] as const) {
    it(`rejects "${args.join(' ')}" in one line`, async () => {
      const { code, stderr } = await folder.run('export-verify', ...args);
      assert.equal(code, expected);
      assert.match(stderr, message);
      assert.doesNotMatch(stderr, /\n\s+at /);
    });
  }

  for (const [name] of FORMS) {
    for (const packed of PACKED) {
      it(`detects a truncated file and a changed byte: ${name}, ${packed}`, async () => {
        const bytes = readFileSync(path(`${name}.${packed}`));
        const manifest = manifestOf(`${name}.${packed}`);
        for (const at of [0, 1, 3, bytes.length >> 1, bytes.length - 1]) {
          writeFileSync(path('bad'), bytes.subarray(0, at));
          assert.match((await verifyExport(path('bad'), manifest)).join(), /bytes is .*sha256 is/);
          const changed = Buffer.from(bytes);
          changed[at] = (changed[at] ?? 0) ^ 1;
          writeFileSync(path('bad'), changed);
          assert.match((await verifyExport(path('bad'), manifest)).join(), /sha256 is/);
        }
      });
    }
  }

  it('counts rows, so that a manifest with a matching hash does not help', async () => {
    for (const [name] of FORMS) {
      const text = readFileSync(path(`${name}.none`), 'utf8');
      for (const over of [
        { messages: 24 },
        { conversations: 5 },
        { deleted: 1 },
        { first_message_id: null },
        { last_message_id: manifestOf('json.none').first_message_id },
      ]) {
        const faults = await verifyExport(path('forged'), forged(`${name}.none`, text, over));
        assert.deepEqual(faults.length, 1, `${name} ${JSON.stringify(over)}`);
        assert.match(faults.join(), new RegExp(`^${Object.keys(over).join()} is`));
      }
    }
  });

  it('detects a truncated compressed stream although the hash matches', async () => {
    for (const packed of ['gzip', 'zstd'] as const) {
      const bytes = readFileSync(path(`json.${packed}`));
      const faults = await verifyExport(path('forged'), forged(`json.${packed}`, bytes.subarray(0, -5), {}));
      assert.match(faults.join(), /is broken/);
    }
  });

  for (const [what, name, change] of [
    ['a document without an end', 'json', (text: string) => text.slice(0, -3)],
    ['more behind the document', 'json', (text: string) => `${text}{}`],
    [
      'a summary of something else',
      'json',
      (text: string) => text.replace('"messages":25}', '"messages":26}'),
    ],
    ['no summary', 'json', (text: string) => text.replace(/,"summary":\{[^}]*\}/, '')],
    ['a comma too many', 'json', (text: string) => text.replace('"messages":[', '"messages":[,')],
    ['a message without id', 'ndjson', (text: string) => text.replace('"id":', '"uid":')],
    ['a line that is no object', 'ndjson', (text: string) => `${text}1\n`],
    ['an empty line', 'ndjson', (text: string) => `${text}\n`],
    [
      'a conversation on two lines',
      'ndjson',
      (text: string) => text.replace('"messages":[{', '"messages":[\n{'),
    ],
    ['a last line without an end', 'ndjson', (text: string) => text.slice(0, -1)],
    [
      'an object that is neither',
      'ndjson',
      (text: string) => `${text}{"conversation_id":"x","deleted":false}\n`,
    ],
    ['a control character in a string', 'ndjson', (text: string) => text.replace('xxx', 'x\tx')],
    ['an escape that is none', 'ndjson', (text: string) => text.replace('xxx', 'x\\x')],
    ['no byte order mark', 'csv', (text: string) => text.slice(1)],
    ['a byte order mark', 'raw.csv', (text: string) => `\uFEFF${text}`],
    ['a formula', 'csv', (text: string) => text.replace("'=1+1", '=1+1')],
    ['no header', 'raw.csv', (text: string) => text.slice(text.indexOf('\r\n') + 2)],
    ['lines that end in LF', 'raw.csv', (text: string) => text.replace('status\r\n', 'status\n')],
    ['a column less', 'raw.csv', (text: string) => text.replace(',complete\r\n', '\r\n')],
    ['a quote that is not doubled', 'raw.csv', (text: string) => text.replace('""a""', '"a""')],
    ['a quote without an end', 'raw.csv', (text: string) => `${text}"`],
    ['a row without an end', 'raw.csv', (text: string) => text.slice(0, -2)],
  ] as const) {
    it(`rejects ${name} with ${what}`, async () => {
      const text = readFileSync(path(`${name}.none`), 'utf8');
      const other = change(text);
      assert.notEqual(other, text);
      const faults = await verifyExport(path('forged'), forged(`${name}.none`, other, {}));
      assert.match(faults.join(), /is broken: /);
    });
  }

  it('reads files of many gzip members, also empty ones, like the purge archive', async () => {
    const text = gunzipSync(readFileSync(path('csv.gzip')));
    const cuts = [0, 1, 1, 5000, 50_000, text.length];
    const members = cuts.map((to, at) => gzipSync(text.subarray(cuts[at - 1] ?? 0, to)));
    const manifest = forged('csv.gzip', Buffer.concat(members), {});
    assert.deepEqual(await verifyExport(path('forged'), manifest), []);
  });

  it('counts the same for any block boundaries', async () => {
    const counters: Record<string, Counter> = {
      json: countJson,
      ndjson: countNdjson,
      csv: countCsv,
      'raw.csv': countRawCsv,
    };
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...FORMS.map(([name]) => name)),
        fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 40 }),
        async (name, sizes) => {
          // Without the long text, so that more cuts fall between and inside tokens.
          const bytes = Buffer.from(readFileSync(path(`${name}.none`), 'utf8').replace(/x{1000,}/, 'x'));
          async function* blocks() {
            for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
              const size = sizes[turn % sizes.length] ?? 1;
              yield bytes.subarray(at, at + size);
              at += size;
            }
          }
          const manifest = manifestOf(`${name}.none`);
          const found = await counters[name]?.(blocks());
          assert(found);
          assert.deepEqual({ ...manifest, ...found }, manifest);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('needs no more memory for a conversation of 80 megabytes than for a small file', async () => {
    // Escapes cost the reader ten times as much as other text.
    const content = JSON.stringify(`好 "x" \\ ${'x'.repeat(200_000)}`);
    const message = Buffer.from(`,{"id":"m","content":${content}}`);
    const hash = createHash('sha256');
    const handle = openSync(path('large'), 'w');
    let bytes = 0;
    const write = (piece: Buffer) => {
      hash.update(piece);
      bytes += writeSync(handle, piece);
    };
    write(Buffer.from('{"conversation_id":"c","messages":['));
    let messages = 0;
    for (; bytes < 80e6; messages += 1) write(message.subarray(messages > 0 ? 0 : 1));
    write(Buffer.from(']}\n'));
    closeSync(handle);
    const sha256 = hash.digest('hex');
    const manifest = { ...manifestOf('ndjson.none'), bytes, sha256, messages, conversations: 1 };
    writeFileSync(
      path('large.manifest.json'),
      // No UUIDs here: what the ids are is not for the manifest's schema.
      JSON.stringify({ ...manifest, first_message_id: null, last_message_id: null }),
    );
    const told = 'data:text/javascript,process.on("exit",()=>console.log(process.resourceUsage().maxRSS))';
    const peak = async (name: string) => {
      const { code, stdout, stderr } = await folder.start('export-verify', [name], ['--import', told]).ended;
      return { kilobytes: Number(stdout.toString().trim().split('\n').at(-1)), code, stderr };
    };
    const [small, large] = [await peak('ndjson.none'), await peak('large')];
    assert.deepEqual([small.code, large.code], [0, 1]);
    assert.match(
      large.stderr,
      /^large does not match its manifest: first_message_id is m, not null; last_message_id is m/,
    );
    assert.ok(large.kilobytes - small.kilobytes < 64 * 1024, `${small.kilobytes} → ${large.kilobytes} KB`);
  });
});
