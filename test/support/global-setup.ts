/**
 * Runs once around the whole test run: finds or makes the MySQL or MariaDB that it uses and passes the URL on to the
 * test files in TEST_DATABASE_URL. Set by hand (one URL, or several separated by commas) that variable is left alone.
 * In the end it reads all that was logged for what should not be there.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { install } from './debian.ts';
import { findMariadbd, type Mariadb, startMariadb } from './mariadb.ts';
import { recordOutput, searchLogs } from './planted.ts';

/** The script that makes the data directory, of the first, calls a program of the second. */
const PACKAGES = ['mariadb-server-core', 'mariadb-client-core'];

let server: Mariadb | undefined;
let logs: string | undefined;

export async function globalSetup(): Promise<void> {
  logs = mkdtempSync(join(tmpdir(), 'chat-test-logs-'));
  process.env.TEST_LOG_DIR = logs;
  recordOutput();
  await provideDatabase();
}

async function provideDatabase(): Promise<void> {
  if (process.env.TEST_DATABASE_URL !== undefined) return;
  if (!(findMariadbd() ?? install(findMariadbd, PACKAGES))) {
    const missing = 'no mariadbd or mysqld here and no TEST_DATABASE_URL';
    if (process.env.CI === 'true') throw new Error(`${missing}: the tests must run on MySQL or MariaDB too`);
    process.stderr.write(`\n*** ${missing}: ONLY SQLITE IS TESTED ***\n\n`);
    process.env.TEST_DATABASE_URL = '';
    return;
  }
  server = await startMariadb();
  process.env.TEST_DATABASE_URL = server.url;
}

/** @throws Error when something secret was logged; what was logged is then left for whoever looks into it */
export async function globalTeardown(): Promise<void> {
  await server?.stop();
  if (logs === undefined) return;
  // Nothing more is to be written down.
  delete process.env.TEST_LOG_DIR;
  const { leaks, files, characters, planted } = searchLogs(logs);
  if (leaks.length === 0) {
    rmSync(logs, { recursive: true, force: true });
    process.stderr.write(
      `none of ${planted} planted secrets is in ${files} logs (${characters} characters)\n`,
    );
    return;
  }
  const places = leaks.map(({ file, line, kind }) => `${join(logs ?? '', file)}:${line}: ${kind}`);
  const said = `the logs of this run hold what must never be in a log:\n${places.join('\n')}`;
  // The runner only fails by the error, and does not always say it.
  process.stderr.write(`\n*** ${said}\n`);
  throw new Error(said);
}
