import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import Sqlite from 'better-sqlite3';
import { newId, startOf, userMessage } from '../db/fixtures.ts';
import { until } from '../support/chat-server.ts';
import type { StoredConversation } from '../support/export-data.ts';
import { scriptFolder } from '../support/script.ts';

const HOUR = 3_600_000;
/** More than the command removes in the second after which it prints its progress. */
const CONVERSATIONS = 150;
const MESSAGES = 200;

const STOPPED =
  /^(?<removed>\d+) conversations with \d+ messages removed before the interruption\. (?<left>\d+) conversations are left; run it again\.\n$/m;

function expiredConversation(): StoredConversation {
  const id = crypto.randomUUID();
  const time = '2024-03-21 12:00:00.123';
  const messages = Array.from({ length: MESSAGES }, () => ({
    ...{ uid: crypto.randomUUID(), role: 'user', content: 'an old message', status: 'complete' },
    timestamp: time,
  }));
  return { id, created_at: time, last_active: time, messages };
}

describe('npm run purge', () => {
  const folder = scriptFolder();
  after(() => folder.remove());
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await folder.run('purge', ...args);
    return { code, stdout: stdout.toString(), stderr };
  };

  /** A question that was asked `age` milliseconds ago. */
  async function ask(age: number): Promise<void> {
    const database = folder.open();
    const message = userMessage(newId(), { timestamp: Date.now() - age });
    await database.writer.write({ start: startOf(message, { named: false, expiredBefore: 0 }) });
    await database.close();
  }

  it('says in one line what to do while the schema is missing', async () => {
    const { code, stderr } = await run();
    assert.equal(code, 1);
    assert.equal(stderr, 'The schema of the database is older than this version: run npm run migrate\n');
  });

  it('counts with --dry-run and deletes without, only expired conversations', async () => {
    const database = folder.open();
    await database.migrate();
    await database.close();
    await ask(23 * HOUR);
    await ask(25 * HOUR);
    await ask(48 * HOUR);
    assert.equal((await run('--dry-run')).stdout, '2 conversations with 2 messages would be removed.\n');
    assert.equal((await run()).stdout, '2 conversations with 2 messages removed.\n');
    assert.equal((await run('--dry-run')).stdout, '0 conversations with 0 messages would be removed.\n');
  });

  it('asks for --yes where nearly all conversations are expired', async () => {
    await writeFile(join(folder.path, '.env'), 'CONVERSATION_TTL_HOURS=0.001\n');
    const { code, stderr } = await run();
    assert.deepEqual([code, /removes what is idle for 3\.6 s; repeat .* --yes/.test(stderr)], [1, true]);
    assert.equal((await run('--dry-run')).stdout, '1 conversations with 1 messages would be removed.\n');
    assert.equal((await run('--yes')).stdout, '1 conversations with 1 messages removed.\n');
    await rm(join(folder.path, '.env'));
  });

  it('prints its progress each second, and ends within a second after a signal with what is left', async (t) => {
    const script = scriptFolder();
    t.after(() => script.remove());
    const database = script.open();
    await database.migrate();
    await database.close();
    script.fill(Array.from({ length: CONVERSATIONS }, expiredConversation));
    // Slow rows, so that few are enough.
    const slow = 'BEGIN SELECT hex(zeroblob(200000)); END';
    const file = new Sqlite(join(script.path, 'chat.sqlite'));
    file.exec(`CREATE TRIGGER slow AFTER DELETE ON messages ${slow}`);
    file.close();
    let before = CONVERSATIONS;
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const { child, ended } = script.start('purge', []);
      let printed = '';
      child.stdout?.on('data', (chunk) => {
        printed += String(chunk);
      });
      await until('a line of progress', () =>
        /^\d+ conversations, [1-9]\d* messages removed, [1-9]\d* messages\/s$/m.test(printed),
      );
      const from = performance.now();
      child.kill(signal);
      const { code, stdout, stderr } = await ended;
      const ms = performance.now() - from;
      assert(ms < 1000, `${ms} ms`);
      assert.deepEqual([code, stderr], [0, '']);
      const said = STOPPED.exec(stdout.toString())?.groups;
      const left = Number(said?.left);
      assert.equal(Number(said?.removed) + left, before, printed);
      assert(left > 0, printed);
      before = left;
    }
  });

  it('rejects an unknown option', async () => {
    const { code, stderr } = await run('--dry');
    assert.equal(code, 2);
    assert.match(stderr, /^Unknown option '--dry'\nusage:/);
  });
});
