import assert from 'node:assert/strict';
import { createReadStream, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { unpacked } from '../../scripts/export-lib/unpack.ts';
import { shown, storedConversation } from '../support/export-data.ts';
import { randomised, rounds } from '../support/random.ts';
import { type Script, scriptFolder } from '../support/script.ts';

const KILLS = rounds(4, 10);
/** So many that an export has some checkpoints. */
const COUNT = rounds(5000, 8000);

const folder = scriptFolder();
const file = (name: string) => join(folder.path, name);
const read = (name: string) => readFileSync(file(name));
const json = (name: string) => JSON.parse(read(name).toString());
const run = (...args: string[]) => folder.run('export', ...args);

const began = Date.now() - 3_600_000;
/** Few escapes: they are most of the work of export:verify. */
const TEXTS = ['a question', 'an answer 好 😀 '.repeat(150), 'another', `# 标题\n\n${'- 一 '.repeat(400)}`];
const conversations = Array.from({ length: COUNT }, (_, n) => storedConversation(began + n, TEXTS));

before(async () => {
  const database = folder.open();
  await database.migrate();
  await database.close();
  folder.fill(conversations);
  assert.equal((await run('--format', 'ndjson', '--out', 'reference')).code, 0);
  await interrupted('c', '--format', 'ndjson');
  writeFileSync(file('d.part.json'), read('c.part.json'));
});
after(() => folder.remove());

async function verified(name: string): Promise<void> {
  const { code, stderr } = await folder.run('export-verify', name);
  assert.deepEqual([code, stderr], [0, '']);
}

/** Waits until the run has noted how far it is. */
async function checkpointed({ child }: Script, name: string, before: number): Promise<boolean> {
  while (child.exitCode === null) {
    if (checkpoint(name) > before) return true;
    await delay(5);
  }
  return false;
}

/** The messages that a run has behind itself. */
function checkpoint(name: string): number {
  return existsSync(file(`${name}.part.json`)) ? json(`${name}.part.json`).checkpoint.messages : 0;
}

/** An export that was killed in the midst. */
async function interrupted(name: string, ...args: string[]): Promise<void> {
  const script = folder.start('export', [...args, '--out', name]);
  assert.ok(await checkpointed(script, name, 0), 'it was done before it could be killed');
  script.child.kill('SIGKILL');
  await script.ended;
}

describe('npm run export, interrupted,', () => {
  it(
    `resumes after ${KILLS} kills at random moments, to the same bytes`,
    randomised(async (random, t) => {
      const args = ['--format', 'ndjson', '--compression', 'zstd', '--out', 'killed'];
      let wentOn = 0;
      for (let kills = 0; kills < KILLS; ) {
        const behind = checkpoint('killed');
        const script = folder.start('export', args);
        if (kills % 2 === 0) await checkpointed(script, 'killed', behind);
        await delay(random.int(0, kills % 2 === 0 ? 100 : 600));
        if (script.child.exitCode === null && script.child.kill('SIGKILL')) kills += 1;
        await script.ended;
        const now = checkpoint('killed');
        t.diagnostic(`${behind} → ${now} messages`);
        assert.ok(now >= behind || existsSync(file('killed')), 'what was noted is not lost');
        if (behind > 0 && now > behind) wentOn += 1;
      }
      const { code, stderr } = await run(...args);
      assert.equal(code, 0);
      assert.match(stderr, /^exported \d+ conversations, /);
      assert.ok(wentOn > 0, 'at least one of them went on where another was killed');
      await verified('killed');
      const text = await buffer(unpacked(createReadStream(file('killed')), 'zstd'));
      assert.ok(text.equals(read('reference')));
      const left = readdirSync(folder.path).filter((entry) => entry.startsWith('killed'));
      assert.deepEqual(left.sort(), ['killed', 'killed.manifest.json']);
    }),
  );

  it('does not resume the run of another command line, unless it may restart', async () => {
    const state = read('c.part.json');
    const other = await run('--format', 'csv', '--out', 'c');
    assert.equal(other.code, 1);
    assert.match(other.stderr, /^c\.part belongs to another interrupted export: .*--restart.*\n$/);
    assert.deepEqual(read('c.part.json'), state);
    const start = shown(conversations.at(-100)?.created_at ?? '');
    assert.equal((await run('--format', 'csv', '--start', start, '--out', 'c', '--restart')).code, 0);
    assert.equal(json('c.manifest.json').format, 'csv');
    await verified('c');
  });

  it('starts again without the part file, and reports an invalid state file', async () => {
    writeFileSync(file('d.part'), 'short');
    assert.equal((await run('--format', 'ndjson', '--out', 'd')).code, 0);
    await verified('d');
    writeFileSync(file('d.part.json'), '{');
    const { code, stderr } = await run('--format', 'ndjson', '--out', 'd');
    assert.deepEqual([code, stderr.split('\n').length], [1, 2]);
    assert.match(stderr, /--restart/);
  });

  it('can be resumed after Ctrl-C, and does not change an existing file', async () => {
    writeFileSync(file('e'), 'of before');
    const args = ['--format', 'json', '--out', 'e'];
    const script = folder.start('export', args);
    await checkpointed(script, 'e', 0);
    script.child.kill('SIGINT');
    const { code, stderr } = await script.ended;
    assert.deepEqual([code, stderr], [130, 'Stopped; repeat the command line to resume.\n']);
    assert.equal(read('e').toString(), 'of before');
    assert.ok(checkpoint('e') > 0);
    assert.equal((await run(...args)).code, 0);
    await verified('e');
  });
});
