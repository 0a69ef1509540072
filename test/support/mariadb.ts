/** A private MariaDB (or MySQL) server that tests may kill, freeze and restart. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import mysql from 'mysql2/promise';
import { findProgram } from './debian.ts';
import { freePort } from './ports.ts';

/**
 * Server defaults that an administrator could choose and that do not suit this program, so that the tests prove that it
 * does not depend on defaults.
 */
const UNFRIENDLY = [
  '--character-set-server=latin1',
  '--collation-server=latin1_swedish_ci',
  '--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES',
  '--default-time-zone=+05:45',
];

const SMALL = [
  '--innodb-buffer-pool-size=64M',
  '--innodb-flush-log-at-trx-commit=1',
  '--skip-log-bin',
  '--performance-schema=OFF',
  '--skip-name-resolve',
  '--max-connections=200',
];

const START_TIMEOUT_MS = 60_000;

/**
 * Environment variable with the folder of a new server's data. Other servers of the run copy it, which saves half a
 * second.
 */
const NEW_DATA = 'TEST_MARIADB_DATA';

export function findMariadbd(): string | undefined {
  return findProgram('mariadbd', 'mysqld');
}

/**
 * Starts a server with its own data on a free loopback port. {@link Mariadb.stop} removes both.
 * @throws Error when there is no server program, or with the end of its log when it does not start
 */
export async function startMariadb(): Promise<Mariadb> {
  const program = findMariadbd();
  if (!program) throw new Error('there is no mariadbd on this machine');
  const server = new Mariadb(program, mkdtempSync(join(tmpdir(), 'chat-mariadb-')), await freePort());
  await server.start();
  return server;
}

export class Mariadb {
  /** Without the name of a database, because tests create their own. */
  readonly url: string;
  readonly #program: string;
  readonly #folder: string;
  readonly #port: number;
  readonly #mariadb: boolean;
  #process: ChildProcess | undefined;
  readonly #atExit = () => this.#abandon();

  constructor(program: string, folder: string, port: number) {
    this.#program = program;
    this.#folder = folder;
    this.#port = port;
    this.url = `mysql://root@127.0.0.1:${port}`;
    this.#mariadb = execFileSync(program, ['--version'], { encoding: 'utf8' }).includes('MariaDB');
    this.#initialize();
    process.once('exit', this.#atExit);
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  /** Starts the stopped or killed server again, on the same data and port; resolves when it answers. */
  async start(): Promise<void> {
    const log = openSync(join(this.#folder, 'server.log'), 'a');
    const socket = process.platform === 'win32' ? [] : [`--socket=${join(this.#folder, 'socket')}`];
    const kind = this.#mariadb ? [] : ['--mysqlx=OFF'];
    const place = [`--port=${this.#port}`, '--bind-address=127.0.0.1', ...socket];
    const child = spawn(this.#program, [...this.#base(), ...place, ...kind, ...SMALL, ...UNFRIENDLY], {
      stdio: ['ignore', log, log],
    });
    this.#process = child;
    const deadline = performance.now() + START_TIMEOUT_MS;
    while (!(await this.#answers())) {
      if (child.exitCode !== null || performance.now() > deadline) {
        const tail = readFileSync(join(this.#folder, 'server.log'), 'utf8').slice(-2000);
        throw new Error(`the database server did not start:\n${tail}`);
      }
      await delay(50);
    }
  }

  /** Shuts the server down and removes its data. */
  async stop(): Promise<void> {
    await this.#end('SIGTERM');
    process.off('exit', this.#atExit);
    this.#remove();
  }

  /** Sends SIGKILL, like a crash. The data stay for {@link start}. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  async restart(): Promise<void> {
    await this.#end('SIGTERM');
    await this.start();
  }

  /**
   * Sends SIGSTOP: connections stay open without responses. Returns when all threads have stopped, because after the
   * signal threads on other cores can still finish a response.
   */
  freeze(): void {
    const child = this.#process;
    if (!child?.kill('SIGSTOP')) return;
    while (!hasStopped(child.pid ?? 0)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
  }

  thaw(): void {
    this.#process?.kill('SIGCONT');
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    child.kill('SIGCONT');
    await gone;
  }

  #abandon(): void {
    this.#process?.kill('SIGKILL');
    this.#remove();
  }

  /** Repeats the removal, because a killed server may still be writing. */
  #remove(): void {
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  }

  /** Common options. The server runs as root only with `--user=root`. */
  #base(): string[] {
    const root = process.getuid?.() === 0 ? ['--user=root'] : [];
    // Its own temporary folder, because servers that start at the same time would use each other's files.
    const folders = [`--datadir=${join(this.#folder, 'data')}`, `--tmpdir=${this.#folder}`];
    // The default is 96 MB, which each server would copy.
    const log = this.#mariadb ? ['--innodb-log-file-size=16M'] : [];
    return ['--no-defaults', ...folders, ...log, ...root];
  }

  #initialize(): void {
    const data = join(this.#folder, 'data');
    const known = process.env[NEW_DATA] ?? '';
    // Without a global setup the folder may have been removed with its server.
    if (existsSync(known)) {
      cpSync(known, data, { recursive: true });
      return;
    }
    const install = ['--auth-root-authentication-method=normal', '--skip-test-db'];
    if (this.#mariadb) run('mariadb-install-db', [...this.#base(), ...install]);
    else run(this.#program, [...this.#base(), '--initialize-insecure']);
    process.env[NEW_DATA] = join(this.#folder, 'new-data');
    cpSync(data, process.env[NEW_DATA], { recursive: true });
  }

  async #answers(): Promise<boolean> {
    try {
      const connection = await mysql.createConnection({ uri: this.url, connectTimeout: 2000 });
      await connection.end();
      return true;
    } catch {
      return false;
    }
  }
}

function run(program: string, args: readonly string[]): void {
  execFileSync(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** Whether every thread of the process has stopped, by its state in /proc: `pid (name) state …`. */
function hasStopped(pid: number): boolean {
  const folder = `/proc/${pid}/task`;
  if (!existsSync(folder)) return true;
  return readdirSync(folder).every((thread) => {
    try {
      const stat = readFileSync(join(folder, thread, 'stat'), 'utf8');
      return /^[TtZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
    } catch {
      // The thread has ended since the folder was listed.
      return true;
    }
  });
}
