/**
 * Runs every curl command of the documents against a live server and compares its response with the block that
 * follows. Commands may use shell variables, filled from the latest response of the same document that has them: $ID
 * (conversation_id), $STREAM (stream_id), $LAST (id of the last event), $CURSOR (next_cursor), $JOB (id of the
 * export job that was started) and $SINCE (cursor of an export).
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { provideProgram } from '../support/debian.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { type Call, callsOf, documents, read } from './documents.ts';
import { differences } from './shape.ts';

const SHELL = process.platform === 'win32' ? 'sh' : '/bin/sh';
const LIMIT_MS = 60_000;

interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(script: string, variables: Readonly<Record<string, string>>): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, no_proxy: '*', ...variables };
    const child = spawn(SHELL, ['-euc', script], { env, timeout: LIMIT_MS });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
    child.on('error', reject);
    child.on('close', (code) => {
      resolve({ code, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() });
    });
  });
}

const VARIABLES = [
  ['ID', /(?:"conversation_id":"|^x-conversation-id: )([^"\s]+)/im],
  ['STREAM', /(?:"stream_id":"|^x-stream-id: )([^"\s]+)/im],
  ['LAST', /^id: (\S+:end)$/m],
  ['CURSOR', /"next_cursor":"([^"]+)"/],
  ['JOB', /"id":"([^"]+)","status":"queued"/],
  ['SINCE', /"cursor":"([^"]+)"/],
] as const;

function fillVariables(variables: Record<string, string>, response: string): void {
  for (const [name, pattern] of VARIABLES) {
    const value = pattern.exec(response)?.[1];
    if (value !== undefined) variables[name] = value;
  }
}

function checkDocument(file: string, calls: readonly Call[]): void {
  describe(`the curl commands of ${file}`, () => {
    let server: TestServer;
    const variables: Record<string, string> = {};
    before(async () => {
      provideProgram('curl', 'curl');
      server = await startServer();
    });
    after(() => server.stop());

    for (const { command, response } of calls) {
      it(`gives the response shown after line ${command.line}: ${command.text.trim().split('\n', 1)[0]}`, async () => {
        assert.ok(response, 'a block with the response (json or text) must follow');
        const script = command.text.replaceAll('localhost:5010', new URL(server.url).host);
        const { code, stdout, stderr } = await run(script, variables);
        assert.equal(code, 0, stderr);
        fillVariables(variables, stdout);
        assert.deepEqual(differences(response, stdout), []);
      });
    }
  });
}

/** docs/operations.md needs a server with keys: test/deploy/install.test.ts walks through it. */
const all = documents()
  .filter((file) => !file.startsWith('docs/operations'))
  .map((file) => ({ file, calls: callsOf(read(file)) }));

/** Translations have the same calls. */
const different = new Map(
  all
    .toReversed()
    .map((one) => [JSON.stringify(one.calls.map(({ command, response }) => [command.text, response])), one]),
);
for (const { file, calls } of different.values()) if (calls.length > 0) checkDocument(file, calls);

describe('the curl commands', () => {
  for (const name of ['README', 'docs/api', 'docs/exports']) {
    it(`are found in ${name}.md, and in its translation`, () => {
      for (const wanted of [`${name}.md`, `${name}.zh-CN.md`])
        assert.ok(all.some(({ file, calls }) => file === wanted && calls.length >= 3));
    });
  }

  it('are one per block, each with its response', () => {
    for (const { file, calls } of all) {
      for (const { command } of calls) {
        assert.equal(command.text.match(/\bcurl /g)?.length, 1, `${file}, line ${command.line}`);
        assert.match(command.text, /localhost:5010/, `${file}, line ${command.line}`);
      }
    }
  });
});
