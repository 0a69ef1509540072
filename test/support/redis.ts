/** A private Redis server that tests may kill, freeze and restart. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const NAMES = process.platform === 'win32' ? ['redis-server.exe'] : ['redis-server', 'valkey-server'];
const START_TIMEOUT_MS = 20_000;
/** Must never be seen in a log. */
export const REDIS_PASSWORD = 'red1s-5ecret';

function find(): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter);
  const files = NAMES.flatMap((name) => folders.map((folder) => join(folder, name)));
  return files.find((file) => existsSync(file));
}

function install(): void {
  const possible = process.getuid?.() === 0 && existsSync('/usr/bin/apt-get');
  if (!possible || process.env.TEST_NO_INSTALL === '1') return;
  process.stderr.write('# installing redis-server with apt-get (TEST_NO_INSTALL=1 forbids it)\n');
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  const options = { env, stdio: ['ignore', 'ignore', 'inherit'] as ['ignore', 'ignore', 'inherit'] };
  const lock = ['-o', 'DPkg::Lock::Timeout=300', '-qq'];
  spawnSync('apt-get', [...lock, 'update'], options);
  spawnSync('apt-get', [...lock, 'install', '-y', '--no-install-recommends', 'redis-server'], options);
}

/**
 * Where the server program is, after installing it if that is possible and allowed. Undefined, said in one loud line:
 * there is none. With CI=true that is an error instead.
 */
export function provideRedis(): string | undefined {
  if (find() === undefined) install();
  const program = find();
  if (program !== undefined) return program;
  const line = 'NO REDIS: WHAT IS SHARED BY REDIS IS NOT TESTED. Install redis-server.';
  if (process.env.CI === 'true') throw new Error(line);
  process.stderr.write(`\n!!! ${line}\n`);
  return undefined;
}

/** Starts a server on a free loopback port, which keeps nothing and asks for a password. */
export async function startRedis(program: string): Promise<RedisServer> {
  const server = new RedisServer(program, await freePort());
  await server.start();
  return server;
}

export class RedisServer {
  readonly url: string;
  readonly #program: string;
  readonly #port: number;
  readonly #folder = mkdtempSync(join(tmpdir(), 'chat-redis-'));
  #process: ChildProcess | undefined;
  readonly #atExit = () => this.#abandon();

  constructor(program: string, port: number) {
    this.#program = program;
    this.#port = port;
    this.url = `redis://default:${REDIS_PASSWORD}@127.0.0.1:${port}/1`;
    process.once('exit', this.#atExit);
  }

  /** Also after {@link kill}, on the same port; resolves when it answers. */
  async start(): Promise<void> {
    const place = ['--port', `${this.#port}`, '--bind', '127.0.0.1', '--dir', this.#folder];
    const settings = ['--save', '', '--appendonly', 'no', '--requirepass', REDIS_PASSWORD];
    const child = spawn(this.#program, [...place, ...settings], { stdio: 'ignore' });
    this.#process = child;
    const deadline = performance.now() + START_TIMEOUT_MS;
    while (!(await this.#answers())) {
      if (child.exitCode !== null || performance.now() > deadline) throw new Error('Redis did not start');
      await delay(20);
    }
  }

  /** It forgets everything. */
  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }

  /** Connections stay open and nothing is answered any more. */
  freeze(): void {
    this.#process?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#process?.kill('SIGCONT');
  }

  async stop(): Promise<void> {
    await this.kill();
    process.off('exit', this.#atExit);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #abandon(): void {
    this.#process?.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #answers(): Promise<boolean> {
    const socket = connect(this.#port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      return true;
    } catch {
      return false;
    } finally {
      socket.destroy();
    }
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (typeof address !== 'object' || address === null) throw new Error('no port');
  return address.port;
}
