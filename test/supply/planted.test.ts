import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { plantMessage, plantSettings, plantText, recordLog, searchLogs } from '../support/planted.ts';

const SETTINGS = {
  OPENAI_API_KEY: 'a key of any shape',
  OPENAI_HEADERS: '{"x-team":"header-of-the-team"}',
  LINK_SECRET: 'first-secret-of-links, second-secret-of-links',
  DATABASE_URL: 'mysql://chat:p%40ss-of-db@db.example/chat',
  REDIS_URL: 'redis://:pass-of-redis@cache.example',
  HOST: '127.0.0.1',
};

/** What is one secret more in each, and how it is called. */
const LINES: readonly (readonly [line: string, kind: string])[] = [
  ['{"path":"/api/ck_01234567_89abcdefgh"}', 'an API key'],
  ['Incorrect API key provided: sk-proj-123456', 'a key of the model server'],
  ['connect mysql://root:toor@127.0.0.1/chat', 'a password in a URL'],
  ['{"msg":"a key of any shape"}', 'a secret of the settings'],
  ['x-team: header-of-the-team', 'a secret of the settings'],
  ['second-secret-of-links', 'a secret of the settings'],
  ['Access denied, p@ss-of-db', 'a secret of the settings'],
  ['AUTH pass-of-redis', 'a secret of the settings'],
  [JSON.stringify({ err: 'who said "this"?\nand why, please?' }), 'a question or a reply'],
  [`{"err":"${'长'.repeat(64)}…"}`, 'a question or a reply'],
];

const GOOD = [
  '{"level":30,"key_prefix":"ck_01234567","path":"/api/chat","msg":"request"}',
  'DATABASE_URL must be sqlite:<file> or mysql://user:password@host:3306/database',
  '{"url":"http://127.0.0.1:5010","database":"mysql://db.example/chat","msg":"listens on 127.0.0.1"}',
  '{"at":"task-sk-1","msg":"hello"}',
];

describe('the logs of a test run', () => {
  const outside = process.env.TEST_LOG_DIR;
  let folder: string;

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'chat-planted-'));
    process.env.TEST_LOG_DIR = folder;
    plantSettings(SETTINGS);
    plantMessage({ message: 'who said "this"?\nand why, please?' });
    plantText('长'.repeat(1000));
    plantText('hello');
  });

  after(() => {
    process.env.TEST_LOG_DIR = outside;
    if (outside === undefined) delete process.env.TEST_LOG_DIR;
    rmSync(folder, { recursive: true, force: true });
  });

  it('are searched for every kind of secret; findings name file and line, not the secret', () => {
    for (const line of GOOD) recordLog(line);
    assert.deepEqual(searchLogs(folder).leaks, []);
    for (const [line] of LINES) recordLog(line);
    const { leaks, files, planted } = searchLogs(folder);
    const found = leaks.toSorted((a, b) => a.line - b.line).map(({ line, kind }) => [line, kind]);
    assert.deepEqual(
      found,
      LINES.map(([, kind], index) => [GOOD.length + index + 1, kind]),
    );
    assert.match(leaks[0]?.file ?? '', /^planted\.test\.ts-\d+\.log$/);
    assert.equal(files, 1);
    assert.equal(planted, 9);
  });
});
