/** The command lines of scripts/, as processes of their own on a database in a folder of their own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Sqlite from 'better-sqlite3';
import { loadConfig } from '../../src/config/config.ts';
import { type Database, openDatabase } from '../../src/db/database.ts';
import { silent } from './databases.ts';
import type { StoredConversation } from './export-data.ts';
import { plantSettings, recordLog } from './planted.ts';

export interface Ended {
  readonly code: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

export interface Script {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
}

export interface ScriptFolder {
  readonly path: string;
  /** A database, opened for this test; closed by the caller. */
  open(): Database;
  /** Inserts many rows without Knex. */
  fill(conversations: readonly StoredConversation[]): void;
  start(script: string, args: readonly string[], node?: readonly string[]): Script;
  run(script: string, ...args: string[]): Promise<Ended>;
  remove(): void;
}

/** @param databaseUrl unset: a file in the folder */
export function scriptFolder(databaseUrl = ''): ScriptFolder {
  const path = mkdtempSync(join(tmpdir(), 'chat-script-'));
  plantSettings({ DATABASE_URL: databaseUrl });
  const env = { ...process.env, DATA_DIR: path, DATABASE_URL: databaseUrl, NODE_OPTIONS: '' };
  const start = (script: string, args: readonly string[], node: readonly string[] = []): Script => {
    const file = fileURLToPath(new URL(`../../scripts/${script}.ts`, import.meta.url));
    const child = spawn(process.execPath, [...node, file, ...args], { cwd: path, env });
    const [stdout, stderr]: [Buffer[], Buffer[]] = [[], []];
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
    const ended = new Promise<Ended>((resolve) => {
      child.once('close', (code) => {
        const said = Buffer.concat(stderr).toString();
        // What it writes to standard output is what was asked for, such as an export.
        if (said !== '') recordLog(said);
        resolve({ code, stdout: Buffer.concat(stdout), stderr: said });
      });
    });
    return { child, ended };
  };
  return {
    path,
    open: () => openDatabase(loadConfig({ DATA_DIR: path }).database, silent),
    fill: (conversations) => insert(join(path, 'chat.sqlite'), conversations),
    start,
    run: (script, ...args) => start(script, args).ended,
    remove: () => rmSync(path, { recursive: true, force: true }),
  };
}

function insert(file: string, conversations: readonly StoredConversation[]): void {
  const database = new Sqlite(file);
  const head = database.prepare('INSERT INTO conversations (id, created_at, last_active) VALUES (?, ?, ?)');
  const body = database.prepare(
    `INSERT INTO messages (uid, conversation_id, role, content, timestamp, status, updated_at)
     VALUES (?, ?, ?, ?, ?, ?, ?)`,
  );
  database.transaction(() => {
    for (const { id, created_at, last_active, messages } of conversations) {
      head.run(id, created_at, last_active);
      for (const { uid, role, content, timestamp, status } of messages) {
        body.run(uid, id, role, content, timestamp, status, timestamp);
      }
    }
  })();
  database.close();
}
