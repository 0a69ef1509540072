/** The command line of every npm script of this project. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, describe, it } from 'node:test';
import packageJson from '../../package.json' with { type: 'json' };

const PROJECT = resolve(import.meta.dirname, '../..');

/** `[name, file, arguments]`: one name for each file; dev is `start` under Node's own watcher. */
const SCRIPTS = Object.entries(packageJson.scripts).flatMap(([name, command]) => {
  const [, file, rest = ''] =
    /^node .*?(\S+\.ts)((?: [a-z]+)*)$/.exec(command.replace(/--import \S+/, '')) ?? [];
  const isRepeated = name === 'dev' || (name.startsWith('migrate:') && name !== 'migrate:rollback');
  return file === undefined || isRepeated ? [] : [[name, file, rest.split(' ').filter(Boolean)] as const];
});
/** Starting these costs seconds, so only their source is read. */
const SLOW = /^(bench|chaos)/;

describe('every npm script', { concurrency: true }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'chat-usage-'));
  after(() => rmSync(folder, { recursive: true, force: true }));

  async function run(file: string, ...args: string[]) {
    const child = spawn(process.execPath, [join(PROJECT, file), ...args], {
      cwd: folder,
      env: { ...process.env, NODE_OPTIONS: '', DATA_DIR: folder, DATABASE_URL: '' },
    });
    const exit = new Promise<number | null>((done) => child.once('close', done));
    const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), exit]);
    return { code, stdout, stderr };
  }

  it('is found', () => {
    const names = SCRIPTS.map(([name]) => name);
    for (const name of [
      'start',
      'test',
      'migrate',
      'migrate:rollback',
      'keys',
      'purge',
      'export:verify',
      'bench',
    ]) {
      assert.ok(names.includes(name), name);
    }
  });

  for (const [name, file] of SCRIPTS.filter(([name]) => SLOW.test(name))) {
    it(`reads its arguments as the others do: ${name}`, () => {
      assert.match(readFileSync(join(PROJECT, file), 'utf8'), /readArguments\(USAGE, /);
    });
  }

  for (const [name, file, args] of SCRIPTS.filter(([name]) => !SLOW.test(name))) {
    it(`refuses unknown arguments with its usage and does nothing: ${name}`, async () => {
      const { code, stdout, stderr } = await run(file, ...args, '--no-such-option');
      assert.match(stderr, /^Unknown option '--no-such-option'\nusage:/);
      assert.deepEqual([code, stdout, readdirSync(folder)], [2, '', []]);
    });
  }

  for (const [name, file, args] of SCRIPTS.filter(([name]) =>
    /^(start|keys|export|migrate(:rollback)?)$/.test(name),
  )) {
    it(`explains itself and does nothing: ${name} -- --help`, async () => {
      const { code, stdout, stderr } = await run(file, ...args, '--help');
      assert.match(stdout, /^usage:/);
      assert.deepEqual([code, stderr, readdirSync(folder)], [0, '', []]);
    });
  }
});
