import mysql from 'mysql2/promise';
import { startMariadb } from '../test/support/mariadb.ts';

export interface BenchDatabases {
  /** `url` undefined: SQLite. */
  readonly list: readonly { readonly name: string; readonly url: string | undefined }[];
  /** Deletes all conversations on the MySQL server. */
  empty(): Promise<void>;
  stop(): Promise<void>;
}

/** SQLite, and a new schema on the server of BENCH_DATABASE_URL or on a private MariaDB. */
export async function benchDatabases(suffix = ''): Promise<BenchDatabases> {
  const given = process.env.BENCH_DATABASE_URL;
  const own = given === undefined ? await startMariadb() : undefined;
  const server = given ?? own?.url ?? '';
  const schema = `chat_bench_${process.pid}${suffix}`;
  const admin = await mysql.createConnection(server);
  await admin.query(`CREATE DATABASE ${schema}`);
  const [rows] = await admin.query<mysql.RowDataPacket[]>('SELECT VERSION() AS version');
  const version = String(rows[0]?.version ?? '');
  const name = version.includes('MariaDB') ? `MariaDB ${version.split('-')[0]}` : `MySQL ${version}`;
  const url = new URL(server);
  url.pathname = `/${schema}`;
  return {
    list: [
      { name: 'SQLite', url: undefined },
      { name, url: url.href },
    ],
    async empty() {
      await admin.query('SET SESSION foreign_key_checks = 0');
      for (const table of ['messages', 'conversations']) await admin.query(`TRUNCATE ${schema}.${table}`);
    },
    async stop() {
      await admin.query(`DROP DATABASE ${schema}`);
      await admin.end();
      await own?.stop();
    },
  };
}
