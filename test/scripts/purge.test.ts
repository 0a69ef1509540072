import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../../src/config/config.ts';
import { openDatabase } from '../../src/db/database.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import { createIdSource } from '../../src/ids.ts';
import { silent } from '../support/databases.ts';

const SCRIPT = fileURLToPath(new URL('../../scripts/purge.ts', import.meta.url));
const HOUR = 3_600_000;

describe('npm run purge', () => {
  let folder: string;
  const ids = createIdSource();
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [SCRIPT, ...args], {
      cwd: folder,
      env: { ...process.env, DATA_DIR: folder, DATABASE_URL: '' },
      encoding: 'utf8',
    });

  /** A question that was asked `age` milliseconds ago. */
  async function ask(age: number): Promise<void> {
    const database = openDatabase(loadConfig({ DATA_DIR: folder }).database, silent);
    const conversationId = ids.next();
    const none = { replyTo: null, model: null, finishReason: null, usage: null, format: null };
    const head = { uid: ids.next(), conversationId, role: 'user', content: 'q', status: 'complete' } as const;
    const message = { ...head, ...none, timestamp: Date.now() - age };
    await database.writer.write({
      start: { conversationId, named: false, expiredBefore: 0, by: UNRESTRICTED, message },
    });
    await database.close();
  }

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-api-purge-'));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  it('says in one line what to do while the schema is missing', () => {
    const { status, stderr } = run();
    assert.equal(status, 1);
    assert.equal(stderr, 'The schema of the database is older than this version: run npm run migrate\n');
  });

  it('counts with --dry-run and deletes without, only expired conversations', async () => {
    const database = openDatabase(loadConfig({ DATA_DIR: folder }).database, silent);
    await database.migrate();
    await database.close();
    await ask(23 * HOUR);
    await ask(25 * HOUR);
    await ask(48 * HOUR);
    assert.equal(run('--dry-run').stdout, '2 conversations with 2 messages would be removed.\n');
    assert.equal(run().stdout, '2 conversations with 2 messages removed.\n');
    assert.equal(run('--dry-run').stdout, '0 conversations with 0 messages would be removed.\n');
  });

  it('rejects an unknown option', () => {
    const { status, stderr } = run('--dry');
    assert.equal(status, 1);
    assert.match(stderr, /--dry/);
    assert.doesNotMatch(stderr, /\n\s+at /);
  });
});
