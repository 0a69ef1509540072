/** Reads CSV with two independent parsers: a strict one, and Python's if Python is installed. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';

const SCRIPT = `import csv, io, json, sys
csv.field_size_limit(2**31 - 1)
text = io.TextIOWrapper(sys.stdin.buffer, encoding='utf-8', newline='')
print(json.dumps(list(csv.reader(text, strict=True))))`;

const PYTHON = ['python3', 'python'].find((name) => spawnSync(name, ['-c', 'import csv']).status === 0);

const FIELD = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/y;

/** Accepts only what RFC 4180 allows: CRLF, doubled quotes, no unquoted text that must be quoted. */
export function readStrictCsv(text: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  for (let at = 0; at < text.length; at = FIELD.lastIndex) {
    FIELD.lastIndex = at;
    const match = FIELD.exec(text);
    assert(match, `no RFC 4180 at ${at}: ${JSON.stringify(text.slice(at, at + 80))}`);
    row.push(match[1]?.replaceAll('""', '"') ?? match[2] ?? '');
    if (match[3] === ',') continue;
    rows.push(row);
    row = [];
  }
  assert.deepEqual(row, [], 'the last line has no end');
  return rows;
}

/** The rows, without a byte order mark; both readers must agree. */
export function readCsv(text: string): string[][] {
  const rows = readStrictCsv(text);
  if (PYTHON === undefined) return rows;
  const env = { ...process.env, PYTHONUTF8: '1' };
  const { status, stdout, stderr } = spawnSync(PYTHON, ['-c', SCRIPT], {
    input: text,
    env,
    maxBuffer: 2 ** 30,
  });
  assert.equal(status, 0, String(stderr));
  assert.deepEqual(JSON.parse(String(stdout)), rows);
  return rows;
}
