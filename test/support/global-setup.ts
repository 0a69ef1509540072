/**
 * Runs once around the whole test run: finds or makes the MySQL or MariaDB that it uses and passes the URL on to the
 * test files in TEST_DATABASE_URL. Set by hand (one URL, or several separated by commas) that variable is left alone.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { findMariadbd, type Mariadb, startMariadb } from './mariadb.ts';

/** The script that makes the data directory, of the first, calls a program of the second. */
const PACKAGES = ['mariadb-server-core', 'mariadb-client-core'];

let server: Mariadb | undefined;

export async function globalSetup(): Promise<void> {
  if (process.env.TEST_DATABASE_URL !== undefined) return;
  if (!findMariadbd()) install();
  if (!findMariadbd()) {
    const missing = 'no mariadbd or mysqld here and no TEST_DATABASE_URL';
    if (process.env.CI === 'true') throw new Error(`${missing}: the tests must run on MySQL or MariaDB too`);
    process.stderr.write(`\n*** ${missing}: ONLY SQLITE IS TESTED ***\n\n`);
    process.env.TEST_DATABASE_URL = '';
    return;
  }
  server = await startMariadb();
  process.env.TEST_DATABASE_URL = server.url;
}

export async function globalTeardown(): Promise<void> {
  await server?.stop();
}

function install(): void {
  const possible = process.getuid?.() === 0 && existsSync('/etc/debian_version');
  if (!possible || process.env.TEST_NO_INSTALL === '1') return;
  process.stderr.write(
    `no mariadbd here: installing ${PACKAGES.join(' and ')} (TEST_NO_INSTALL=1 forbids it)\n`,
  );
  const options = { stdio: ['ignore', 'ignore', 'inherit'] as 'inherit'[] };
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  spawnSync('apt-get', ['update'], { ...options, env });
  spawnSync('apt-get', ['install', '-y', '--no-install-recommends', ...PACKAGES], {
    ...options,
    env,
  });
}
