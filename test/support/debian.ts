/** Programs that tests need and that Debian packages: found, or installed where that is possible and allowed. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/**
 * Where a program is. Undefined, said in one loud line: there is none, and its tests cannot run. With CI=true that is
 * an error instead.
 */
export function provideProgram(name: string, debianPackage: string): string | undefined {
  const path = find(name) ?? (install(debianPackage) ? find(name) : undefined);
  if (path !== undefined) return path;
  const line = `NO ${name.toUpperCase()}: ITS TESTS DO NOT RUN. Install the package ${debianPackage}.`;
  if (process.env.CI === 'true') throw new Error(line);
  process.stderr.write(`\n!!! ${line}\n\n`);
  return undefined;
}

function find(name: string): string | undefined {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  // Debian has servers where they are on no user's PATH.
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin'];
  return folders
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name + suffix))
    .find((file) => existsSync(file));
}

function install(debianPackage: string): boolean {
  const possible = process.getuid?.() === 0 && existsSync('/usr/bin/apt-get');
  if (!possible || process.env.TEST_NO_INSTALL === '1') return false;
  process.stderr.write(`# installing ${debianPackage} with apt-get (TEST_NO_INSTALL=1 forbids it)\n`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const options = { env, stdio: ['ignore', 'ignore', 'inherit'] as ['ignore', 'ignore', 'inherit'] };
  const quiet = ['-o', 'DPkg::Lock::Timeout=300', '-qq'];
  spawnSync('apt-get', [...quiet, 'update'], options);
  const asked = ['install', '-y', '--no-install-recommends', debianPackage];
  return spawnSync('apt-get', [...quiet, ...asked], options).status === 0;
}
