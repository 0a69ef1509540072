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
 * Defaults that differ from what the program wants wherever a server's administrator could set them so: the tests
 * then show that it depends on none of them.
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

/** Names the data of a new server, which every other server of the run begins with: to make them takes half a second. */
const NEW_DATA = 'TEST_MARIADB_DATA';

export function findMariadbd(): string | undefined {
  return findProgram('mariadbd', 'mysqld');
}

/**
 * Starts a server on a free loopback port with data of its own, both gone after {@link Mariadb.stop}.
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
  /** Without a database: tests make their own. */
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

  /** Shuts the server down in order and removes its data. */
  async stop(): Promise<void> {
    await this.#end('SIGTERM');
    process.off('exit', this.#atExit);
    this.#remove();
  }

  /** As a power cut would: connections break and nothing is said. The data stay for {@link start}. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  async restart(): Promise<void> {
    await this.#end('SIGTERM');
    await this.start();
  }

  /** Connections stay open and nothing is answered any more. */
  /** Returns when none of its threads runs any more: a signal alone lets those on other cores finish their answer. */
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

  /** A server that was killed a moment ago may still be writing. */
  #remove(): void {
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  }

  /** The server refuses to run as root unless told so. */
  #base(): string[] {
    const root = process.getuid?.() === 0 ? ['--user=root'] : [];
    // A temporary folder of its own: servers that start at the same moment take each other's files for their own.
    const folders = [`--datadir=${join(this.#folder, 'data')}`, `--tmpdir=${this.#folder}`];
    return ['--no-defaults', ...folders, ...root];
  }

  #initialize(): void {
    const data = join(this.#folder, 'data');
    const known = process.env[NEW_DATA] ?? '';
    // Without a global setup it may be of a server that is gone.
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

/** Whether every thread of the process is stopped, by what Linux says of each: `pid (name) state …`. */
function hasStopped(pid: number): boolean {
  const folder = `/proc/${pid}/task`;
  if (!existsSync(folder)) return true;
  return readdirSync(folder).every((thread) => {
    try {
      const stat = readFileSync(join(folder, thread, 'stat'), 'utf8');
      return /^[TtZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
    } catch {
      // It ended meanwhile.
      return true;
    }
  });
}
