/** A private Redis server that tests may kill, freeze and restart. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findProgram, provide } from './debian.ts';
import { freePort } from './ports.ts';

const START_TIMEOUT_MS = 30_000;
/** No log may contain it. */
export const REDIS_PASSWORD = 'red1s-5ecret';

/** The server program, installed if it is missing and that is possible; see {@link provide}. */
export function provideRedis(): string | undefined {
  return provide(() => findProgram('redis-server', 'valkey-server'), 'REDIS', 'redis-server');
}

/** Starts a server on a free loopback port, with a password and without persistence. */
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

  /** Starts the server, also after {@link kill}, on the same port; resolves when it responds. */
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

  /** Sends SIGKILL. All data are lost. */
  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }

  /** Sends SIGSTOP: connections stay open without responses. */
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
