/**
 * Every curl command of the documents, run by the shell against a live server, its answer compared with the block
 * that follows it. Commands may use shell variables, filled from the answers before them in the same document: $ID,
 * the first conversation_id of the latest answer that has one, and likewise $STREAM, the stream_id, $LAST, the id of
 * the last event, $CURSOR, the next_cursor, $JOB, the id of the export that was started, and $SINCE, its cursor.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { startServer, type TestServer } from '../support/server.ts';
import { type Call, callsOf, documents, read } from './documents.ts';
import { differences } from './shape.ts';

const SHELL = process.platform === 'win32' ? 'sh' : '/bin/sh';
const LIMIT_MS = 60_000;

/** As with MariaDB: a bare machine that we are root of gets what the tests need. */
function findCurl(): void {
  const there = () => spawnSync('curl', ['--version']).status === 0;
  if (there()) return;
  const possible = process.getuid?.() === 0 && existsSync('/etc/debian_version');
  if (possible && process.env.TEST_NO_INSTALL !== '1') {
    process.stderr.write('no curl here: installing it (TEST_NO_INSTALL=1 forbids it)\n');
    spawnSync('apt-get', ['update'], { stdio: ['ignore', 'ignore', 'inherit'] });
    spawnSync('apt-get', ['install', '-y', '--no-install-recommends', 'curl'], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  }
  assert.ok(there(), 'the curl lines of the documents need curl');
}

interface Ran {
  readonly code: number | null;
  readonly output: string;
  readonly complaint: string;
}

function run(script: string, variables: Readonly<Record<string, string>>): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, no_proxy: '*', ...variables };
    const child = spawn(SHELL, ['-euc', script], { env, timeout: LIMIT_MS });
    const output: Buffer[] = [];
    const complaint: Buffer[] = [];
    child.stdout.on('data', (piece: Buffer) => output.push(piece));
    child.stderr.on('data', (piece: Buffer) => complaint.push(piece));
    child.on('error', reject);
    child.on('close', (code) => {
      resolve({
        code,
        output: Buffer.concat(output).toString(),
        complaint: Buffer.concat(complaint).toString(),
      });
    });
  });
}

const REMEMBERED = [
  ['ID', /"conversation_id":"([^"]+)"/],
  ['STREAM', /"stream_id":"([^"]+)"/],
  ['LAST', /^id: (\S+:end)$/m],
  ['CURSOR', /"next_cursor":"([^"]+)"/],
  ['JOB', /"id":"([^"]+)","status":"queued"/],
  ['SINCE', /"cursor":"([^"]+)"/],
] as const;

function remember(variables: Record<string, string>, answer: string): void {
  for (const [name, pattern] of REMEMBERED) {
    const value = pattern.exec(answer)?.[1];
    if (value !== undefined) variables[name] = value;
  }
}

function checkDocument(file: string, calls: readonly Call[]): void {
  describe(`the curl commands of ${file}`, () => {
    let server: TestServer;
    const variables: Record<string, string> = {};
    before(async () => {
      findCurl();
      server = await startServer();
    });
    after(() => server.stop());

    for (const { command, answer } of calls) {
      it(`answers as shown after line ${command.line}: ${command.text.trim().split('\n', 1)[0]}`, async () => {
        assert.ok(answer, 'a block with the answer (json or text) must follow');
        const script = command.text.replaceAll('localhost:5010', new URL(server.url).host);
        const { code, output, complaint } = await run(script, variables);
        assert.equal(code, 0, complaint);
        remember(variables, output);
        assert.deepEqual(differences(answer, output), []);
      });
    }
  });
}

const all = documents().map((file) => ({ file, calls: callsOf(read(file)) }));

for (const { file, calls } of all) if (calls.length > 0) checkDocument(file, calls);

describe('the curl commands', () => {
  for (const file of [
    'README.md',
    'README.zh-CN.md',
    'docs/api.md',
    'docs/api.zh-CN.md',
    'docs/exports.md',
    'docs/exports.zh-CN.md',
  ]) {
    it(`are found in ${file}`, () => {
      assert.ok(all.some((one) => one.file === file && one.calls.length >= 4));
    });
  }

  it('stand alone in their block, so that each has its answer', () => {
    for (const { file, calls } of all) {
      for (const { command } of calls) {
        assert.equal(command.text.match(/\bcurl /g)?.length, 1, `${file}, line ${command.line}`);
        assert.match(command.text, /localhost:5010/, `${file}, line ${command.line}`);
      }
    }
  });
});
