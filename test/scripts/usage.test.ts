/** The command line of every npm script of this project. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { after, describe, it } from 'node:test';
import packageJson from '../../package.json' with { type: 'json' };
import { scriptFolder } from '../support/script.ts';

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
/** The server, and what does nothing where it is imported. */
const ALONE = /main|licences/;

describe('every npm script', () => {
  const folder = scriptFolder();
  after(() => folder.remove());

  async function run(file: string, ...args: string[]) {
    const script = `../${file.slice(0, -'.ts'.length)}`;
    const ended = ALONE.test(file) ? folder.start(script, args).ended : folder.run(script, ...args);
    const { code, stdout, stderr } = await ended;
    return { code, stdout: stdout.toString(), stderr, files: readdirSync(folder.path) };
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
      const { code, stdout, stderr, files } = await run(file, ...args, '--no-such-option');
      assert.match(stderr, /^Unknown option '--no-such-option'\nusage:/);
      assert.deepEqual([code, stdout, files], [2, '', []]);
    });
  }

  for (const [name, file, args] of SCRIPTS.filter(([name]) =>
    /^(start|keys|export|migrate(:rollback)?)$/.test(name),
  )) {
    it(`explains itself and does nothing: ${name} -- --help`, async () => {
      const { code, stdout, stderr, files } = await run(file, ...args, '--help');
      assert.match(stdout, /^usage:/);
      assert.deepEqual([code, stderr, files], [0, '', []]);
    });
  }
});
