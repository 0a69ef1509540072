/**
 * Runs once around the whole test run. Starts a MariaDB or MySQL server and passes its URL to the test files in
 * TEST_DATABASE_URL, unless that variable is set already (one URL, or several separated by commas). After the tests it
 * searches all logs for planted secrets.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { install } from './debian.ts';
import { findMariadbd, type Mariadb, startMariadb } from './mariadb.ts';
import { recordOutput, searchLogs } from './planted.ts';

/** The install script of the first package calls a program of the second. */
const PACKAGES = ['mariadb-server-core', 'mariadb-client-core'];

const MAX_SHOWN = 20;

let server: Mariadb | undefined;
let logs: string | undefined;
let templates: string | undefined;

export async function globalSetup(): Promise<void> {
  logs = mkdtempSync(join(tmpdir(), 'chat-test-logs-'));
  process.env.TEST_LOG_DIR = logs;
  templates = mkdtempSync(join(tmpdir(), 'chat-templates-'));
  process.env.TEST_TEMPLATES = templates;
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

/** @throws Error when a secret was logged; the logs then stay for inspection */
export async function globalTeardown(): Promise<void> {
  await server?.stop();
  if (templates !== undefined) rmSync(templates, { recursive: true, force: true });
  if (logs === undefined) return;
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
  const said = `${places.length} secrets in the logs of this run:\n${places.slice(0, MAX_SHOWN).join('\n')}`;
  // The runner fails by the error, but does not always print it.
  process.stderr.write(`\n*** ${said}\n`);
  throw new Error(said);
}
