/** Runs commands of scripts/ on their own database in their own folder. */
import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Sqlite from 'better-sqlite3';
import { loadConfig } from '../../src/config/config.ts';
import { type Database, openDatabase } from '../../src/db/database.ts';
import type { Done, Order } from './command-host.ts';
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
  /** Opens the database; the test closes it. */
  open(): Database;
  /** Inserts many rows without Knex. */
  fill(conversations: readonly StoredConversation[]): void;
  /** Runs a command in its own process. */
  start(script: string, args: readonly string[], node?: readonly string[]): Script;
  /** Runs a command in a process that all commands share, for tests that are not about the process. */
  run(script: string, ...args: string[]): Promise<Ended>;
  remove(): void;
}

const HOST = fileURLToPath(new URL('./command-host.ts', import.meta.url));

let host: ChildProcess | undefined;
let idle: Promise<unknown> = Promise.resolve();

/** The next command begins when the one before has ended. */
function runInHost(order: Order): Promise<Ended> {
  const ended = idle.then(async () => {
    const env = { ...process.env, NODE_OPTIONS: '' };
    const stdio = ['ignore', 'inherit', 'inherit', 'ipc'] as const;
    const child = host ?? fork(HOST, { execArgv: [], env, serialization: 'advanced', stdio: [...stdio] });
    host = child;
    child.ref();
    child.channel?.ref();
    const gone = new AbortController();
    const onExit = () => gone.abort();
    child.once('exit', onExit).send(order);
    const [done] = (await once(child, 'message', { signal: gone.signal })) as [Done];
    child.off('exit', onExit).unref();
    child.channel?.unref();
    const { code, stdout, stderr } = done;
    return { code, stdout: Buffer.from(stdout), stderr: Buffer.from(stderr).toString() };
  });
  idle = ended.catch(() => {
    host = undefined;
  });
  return ended;
}

/** @param databaseUrl unset: a file in the folder */
export function scriptFolder(databaseUrl = '', settings: Record<string, string> = {}): ScriptFolder {
  const path = mkdtempSync(join(tmpdir(), 'chat-script-'));
  plantSettings({ DATABASE_URL: databaseUrl });
  const env = { ...process.env, DATA_DIR: path, DATABASE_URL: databaseUrl, NODE_OPTIONS: '', ...settings };
  const start = (script: string, args: readonly string[], node: readonly string[] = []): Script => {
    const file = fileURLToPath(new URL(`../../scripts/${script}.ts`, import.meta.url));
    const child = spawn(process.execPath, [...node, file, ...args], { cwd: path, env });
    const [stdout, stderr]: [Buffer[], Buffer[]] = [[], []];
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
    const ended = new Promise<Ended>((resolve) => {
      child.once('close', (code) => {
        resolve({ code, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() });
      });
    });
    return { child, ended: ended.then(recorded) };
  };
  return {
    path,
    open: () => openDatabase(loadConfig({ DATA_DIR: path }).database, silent),
    fill: (conversations) => insert(join(path, 'chat.sqlite'), conversations),
    start,
    run: (script, ...args) => runInHost({ script, args, cwd: path, env }).then(recorded),
    remove: () => rmSync(path, { recursive: true, force: true }),
  };
}

/** Records standard error only: standard output has the requested data, such as an export. */
function recorded(ended: Ended): Ended {
  if (ended.stderr !== '') recordLog(ended.stderr);
  return ended;
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
