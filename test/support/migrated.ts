/**
 * Migrated databases. Only the first one of a run is migrated; the others are copies of it, which takes less CPU time.
 */
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import mysql from 'mysql2/promise';
import { pino } from 'pino';
import { openDatabase } from '../../src/db/database.ts';

/** The folder of the templates: of the run, or of this process if a file is run without the global setup. */
const folder = process.env.TEST_TEMPLATES ?? ownFolder();
const OPTIONS = { poolMin: 0, poolMax: 1, acquireTimeoutMs: 5000, queryTimeoutMs: 10_000 };

type Row = Readonly<Record<string, unknown>>;

/** @param file does not exist yet */
export async function createSqlite(file: string): Promise<void> {
  await fromTemplate(
    'sqlite',
    (template) => copyFileSync(template, file),
    async (template) => {
      await migrate({ kind: 'sqlite', file });
      // Its write-ahead log is empty, so copying the file is enough.
      copyFileSync(file, template);
    },
  );
}

/** @param url of a database that is empty */
export async function fillMysql(url: string): Promise<void> {
  const { hostname, port } = new URL(url);
  const connection = await mysql.createConnection({ uri: url });
  const ask = async (sql: string) => (await connection.query(sql))[0] as Row[];
  try {
    await fromTemplate(
      `${hostname}-${port}`,
      async (template) => {
        await ask('SET foreign_key_checks = 0');
        for (const sql of JSON.parse(readFileSync(template, 'utf8'))) await ask(sql);
      },
      async (template) => {
        await migrate({ kind: 'mysql', url });
        const statements: string[] = [];
        for (const [table] of (await ask('SHOW TABLES')).map((row) => Object.values(row))) {
          const [created = {}] = await ask(`SHOW CREATE TABLE ${table}`);
          statements.push(String(created['Create Table']));
          const rows = await ask(`SELECT * FROM ${table}`);
          for (const row of rows) statements.push(connection.format(`INSERT INTO ${table} SET ?`, [row]));
        }
        writeFileSync(template, JSON.stringify(statements));
      },
    );
  } finally {
    await connection.end();
  }
}

/** @param make creates the database and its template */
async function fromTemplate(
  name: string,
  copy: (template: string) => unknown,
  make: (template: string) => Promise<void>,
): Promise<void> {
  const template = join(folder, name);
  if (existsSync(template)) {
    await copy(template);
    return;
  }
  // Under its own name first, because another process may create the template too.
  const own = `${template}-${process.pid}-${crypto.randomUUID()}`;
  await make(own);
  renameSync(own, template);
}

function ownFolder(): string {
  const path = mkdtempSync(join(tmpdir(), 'chat-templates-'));
  process.once('exit', () => rmSync(path, { recursive: true, force: true }));
  return path;
}

async function migrate(target: Parameters<typeof openDatabase>[0]['target']): Promise<void> {
  const database = openDatabase({ target, ...OPTIONS }, pino({ level: 'silent' }));
  await database.migrate().finally(() => database.close());
}
