/** Finds programs that tests need on this machine, or installs them with apt-get if that is possible and allowed. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import Sqlite from 'better-sqlite3';

const INSTALL_TIMEOUT_MS = 600_000;

/** The first of the programs that is on the PATH or in Debian's folders for servers. */
export function findProgram(...names: readonly string[]): string | undefined {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const path = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
  const folders = [...path, '/usr/sbin', '/usr/local/sbin'];
  const files = names.flatMap((name) => folders.map((folder) => join(folder, name + suffix)));
  return files.find((file) => existsSync(file));
}

/**
 * The path of a program, after installing its packages if it is missing. Undefined when that is not possible; with
 * CI=true that is an error.
 * @param what names in the message what is missing: the program, or what is not tested without it
 */
export function provide(
  find: () => string | undefined,
  what: string,
  ...packages: readonly string[]
): string | undefined {
  const path = find() ?? install(find, packages);
  if (path !== undefined) return path;
  const line = `${what} NOT FOUND: ITS TESTS DO NOT RUN. Install ${packages.join(' and ')}.`;
  if (process.env.CI === 'true') throw new Error(line);
  process.stderr.write(`\n!!! ${line}\n\n`);
  return undefined;
}

export function provideProgram(name: string, debianPackage: string): string | undefined {
  return provide(() => findProgram(name), name.toUpperCase(), debianPackage);
}

/** Takes a lock first, because test files run at the same time and apt-get does not always wait for another one. */
export function install(find: () => string | undefined, packages: readonly string[]): string | undefined {
  const possible = process.getuid?.() === 0 && existsSync('/usr/bin/apt-get');
  if (!possible || process.env.TEST_NO_INSTALL === '1') return undefined;
  const lock = new Sqlite(join(tmpdir(), 'chat-api-test-install.lock'), { timeout: INSTALL_TIMEOUT_MS });
  try {
    lock.exec('BEGIN EXCLUSIVE');
    const path = find();
    if (path !== undefined) return path;
    process.stderr.write(`# installing ${packages.join(', ')} (TEST_NO_INSTALL=1 prevents this)\n`);
    aptGet('update');
    aptGet('install', '-y', '--no-install-recommends', ...packages);
    return find();
  } finally {
    lock.close();
  }
}

function aptGet(...args: readonly string[]): void {
  spawnSync('apt-get', ['-o', 'DPkg::Lock::Timeout=300', '-qq', ...args], {
    // A package must not start its server.
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}
