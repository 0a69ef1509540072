/** Runs one suite on every database: SQLite always, and each server of TEST_DATABASE_URL. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe } from 'node:test';
import mysql from 'mysql2/promise';
import { pino } from 'pino';
import type { DatabaseOptions } from '../../src/db/core/client.ts';
import { type Database, openDatabase } from '../../src/db/database.ts';
import { createSqlite, fillMysql } from './migrated.ts';

export const silent = pino({ level: 'silent' });

/** The servers to test on; empty when there is none, or when a file is run without the global setup. */
export function serverUrls(): string[] {
  const list = process.env.TEST_DATABASE_URL;
  if (list === undefined) {
    process.stderr.write(
      '\n*** TEST_DATABASE_URL is not set and no global setup ran: ONLY SQLITE IS TESTED ***\n\n',
    );
  }
  return (list ?? '').split(',').filter((url) => url !== '');
}

/** Opens the suite's database again, with its own pool. It is closed automatically at the end of the suite. */
export type Open = (overrides?: Partial<DatabaseOptions>) => Database;

type Suite = (name: string, open: Open, options: DatabaseOptions) => void;

interface Place {
  readonly name: string;
  readonly target: DatabaseOptions['target'];
  create(): Promise<void>;
  drop(): Promise<void>;
}

interface SuiteOptions {
  /** False leaves the database without tables. */
  readonly migrated?: boolean;
}

/** Defines `suite` for every database, each with a fresh, migrated schema that is dropped afterwards. */
export function eachDatabase(suite: Suite, { migrated = true }: SuiteOptions = {}): void {
  for (const place of [sqlitePlace(), ...serverUrls().map(serverPlace)]) {
    describe(`on ${place.name}`, () => {
      const options = optionsFor(place.target);
      const opened: Database[] = [];
      const open: Open = (overrides = {}) => {
        const database = openDatabase({ ...options, ...overrides }, silent);
        opened.push(database);
        return database;
      };
      before(async () => {
        await place.create();
        const { target } = place;
        if (!migrated) return;
        await (target.kind === 'sqlite' ? createSqlite(target.file) : fillMysql(target.url));
      });
      after(async () => {
        await Promise.all(opened.map((database) => database.close()));
        await place.drop();
      });
      suite(place.name, open, options);
    });
  }
}

export function optionsFor(target: DatabaseOptions['target']): DatabaseOptions {
  return { target, poolMin: 0, poolMax: 10, acquireTimeoutMs: 5000, queryTimeoutMs: 10_000 };
}

function sqlitePlace(): Place {
  const folder = mkdtempSync(join(tmpdir(), 'chat-sqlite-'));
  return {
    name: 'SQLite',
    target: { kind: 'sqlite', file: join(folder, 'chat.sqlite') },
    create: async () => {},
    drop: async () => rmSync(folder, { recursive: true, force: true }),
  };
}

function serverPlace(server: string): Place {
  const database = `chat_test_${randomBytes(6).toString('hex')}`;
  const url = new URL(server);
  url.pathname = `/${database}`;
  const run = async (sql: string) => {
    const connection = await mysql.createConnection({ uri: server });
    await connection.query(sql);
    await connection.end();
  };
  return {
    name: `MySQL ${url.host}`,
    target: { kind: 'mysql', url: url.href },
    create: () => run(`CREATE DATABASE ${database}`),
    drop: () => run(`DROP DATABASE ${database}`),
  };
}
