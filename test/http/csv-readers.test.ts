/** The CSV of exports, read by what people read CSV with. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { pathToFileURL } from 'node:url';
import { parse } from 'csv-parse/sync';
import papaparse from 'papaparse';
import { EXPORT_COLUMNS, escapeFormula, unescapeFormula } from '../../src/services/exports/encoders.ts';
import { type ChatServer, startChat } from '../support/chat-server.ts';
import { readCsv } from '../support/csv.ts';
import { csvRows, store, storedConversation } from '../support/export-data.ts';
import { made } from '../support/export-jobs.ts';

const CONTENTS = [
  'plain',
  'comma, "quotes", \'single\', semicolon; tab\there',
  'line\nbreak\r\nand\rreturn',
  'a;=1+1;b',
  'tab\t=5+5\tend',
  'plain, comma;=2+2;x',
  'hello, you\n=4+4\nbye',
  'x\r=10+10\rz',
  '";"=15+15";"',
  "a;'b\n'c",
  ...[
    '=SUM(1;2)',
    '=1+1',
    '+1',
    '-1',
    '@cmd',
    '\ttab',
    '\rreturn',
    '\nline',
    '＝1+1',
    "'=1",
    "'quoted",
    "''",
  ],
  '你好，世界 😀👨‍👩‍👧 𠮷',
  ' spaces around ',
  ...['"', '""', '\n', ',', '\r\n', '\\', '\\"'],
  '\uFEFFmark',
  '00123',
  '1e5',
  '2026-03-21',
  'TRUE',
  'x'.repeat(32_767),
  'y'.repeat(32_768),
  '长'.repeat(40_000),
  '',
];

/** The most that a cell of LibreOffice holds; what is longer it cuts without a word. */
const LIBREOFFICE_CELL = 65_535;

const readers: Record<string, (text: string) => string[][]> = {
  'csv-parse': (text) => parse(text, { bom: true }),
  papaparse: (text) => {
    const { data, errors } = papaparse.parse<string[]>(text.replace(/\r\n$/, ''));
    assert.deepEqual(errors, []);
    return data;
  },
  "the strict reader of the tests, and Python's csv where there is one": (text) =>
    readCsv(text.replace(/^\uFEFF/, '')),
};

describe('the CSV of exports', () => {
  let chat: ChatServer;
  let folder: string;
  let rows: string[][];
  const texts = { escaped: '', raw: '' };
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-csv-'));
    chat = await startChat();
    const long = storedConversation(Date.now() - 3_600_000, [...CONTENTS, 'z'.repeat(70_000)]);
    const data = [long, storedConversation(Date.now() - 3_600_000, [])];
    await store(chat.server.database, data);
    rows = csvRows(data);
    texts.escaped = (await made(chat.url, { format: 'csv' })).text;
    texts.raw = (await made(chat.url, { format: 'csv', csv: 'raw' })).text;
  });
  after(async () => {
    await chat.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const expected = (raw: boolean) =>
    raw ? rows : rows.map((row) => row.map((cell, column) => (column === 5 ? escapeFormula(cell) : cell)));

  for (const [name, read] of Object.entries(readers)) {
    it(`is read whole by ${name}, and one rule gives the contents back`, () => {
      const [head, ...raw] = read(texts.raw);
      assert.deepEqual(head, [...EXPORT_COLUMNS]);
      assert.deepEqual(raw, rows);
      assert.equal(texts.escaped[0], '\uFEFF');
      const [, ...escaped] = read(texts.escaped);
      assert.deepEqual(
        escaped.map((row) => row.map((cell) => unescapeFormula(cell))),
        rows,
      );
    });
  }

  it('begins no cell with a sign of a formula, whatever separates cells and rows', () => {
    for (const separator of [';', '\t']) {
      const cells = texts.escaped.split(/[\r\n]/).flatMap((line) => line.split(separator));
      assert.deepEqual(
        cells.filter((cell) => /^"*[=+\-@＝＋－＠]/.test(cell)),
        [],
      );
    }
  });

  if (spawnSync('soffice', ['--version']).status === 0) {
    /** The cells after LibreOffice has read the file and written it again. */
    const throughLibreOffice = async (name: string, text: string, columns: string): Promise<string[][]> => {
      const file = join(folder, `${name}.csv`);
      await writeFile(file, text);
      const out = join(folder, `${name}-out`);
      const profile = pathToFileURL(join(folder, 'profile')).href;
      const { status, stderr } = spawnSync('soffice', [
        ...[`-env:UserInstallation=${profile}`, '--headless', `--infilter=CSV:44,34,76,1,${columns}`],
        ...[
          '--convert-to',
          'csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false',
          '--outdir',
          out,
          file,
        ],
      ]);
      assert.equal(status, 0, String(stderr));
      return parse(await readFile(join(out, `${name}.csv`)), { bom: true });
    };
    /** In a cell every line break is a line feed. */
    const asCell = (text: string) => text.replace(/\r\n?/g, '\n').slice(0, LIBREOFFICE_CELL);
    const text = EXPORT_COLUMNS.map((_, index) => `${index + 1}/2`).join('/');

    it('survives LibreOffice, columns read as text', async () => {
      for (const [name, raw] of [
        ['escaped', false],
        ['raw', true],
      ] as const) {
        const [head, ...cells] = await throughLibreOffice(name, texts[name], text);
        assert.deepEqual(head, [...EXPORT_COLUMNS]);
        assert.deepEqual(
          cells,
          expected(raw).map((row) => row.map(asCell)),
        );
      }
    });

    it('runs no formula in LibreOffice, which reads columns as it likes', async () => {
      const cells = await throughLibreOffice('as-it-likes', texts.escaped, '');
      const formulas = rows.flatMap((row, index) =>
        escapeFormula(row[5] ?? '') === row[5] ? [] : [[row[5] ?? '', cells[index + 1]?.[5] ?? ''] as const],
      );
      assert(formulas.length > 10);
      for (const [content, cell] of formulas) assert.equal(cell, asCell(escapeFormula(content)));
      const run = await throughLibreOffice('raw-as-it-likes', texts.raw, '');
      assert.equal(
        run[rows.findIndex((row) => row[5] === '=1+1') + 1]?.[5],
        '2',
        'the raw one would have been run',
      );
    });
  }
});
