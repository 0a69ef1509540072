/** Several server processes with one database and one folder, as PM2 starts them on a host, and a model server. */
import assert from 'node:assert/strict';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KEY } from './chat-server.ts';
import { type ChildFolder, type ChildServer, type Exit, makeFolder } from './child-server.ts';
import { type FakeUpstream, startFakeUpstream } from './fake-upstream.ts';
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts';
import type { Ledger } from './ledger.ts';
import { SECRET_WORD } from './planted.ts';
import { type StoredIn, storedIn } from './snapshot.ts';
import { storyteller } from './story.ts';

/** Short intervals, so that a test takes seconds instead of minutes. */
const QUICK = {
  LOG_FORMAT: 'json',
  STREAM_LEASE_MS: '1500',
  SSE_OPEN_MS: '0',
  DB_ACQUIRE_TIMEOUT_MS: '1000',
  DB_QUERY_TIMEOUT_MS: '2000',
  DB_POOL_MAX: '5',
  SHUTDOWN_GRACE_MS: '5000',
  PURGE_CRON: '0 0 1 1 *',
};

export class Member {
  readonly index: number;
  readonly #folder: ChildFolder;
  readonly #env: Readonly<Record<string, string>>;
  #child: ChildServer | undefined;
  #url = '';
  #leaving = false;

  constructor(index: number, folder: ChildFolder, env: Readonly<Record<string, string>>) {
    this.index = index;
    this.#folder = folder;
    this.#env = env;
  }

  /** The URL of the running process, or of the last one. */
  get url(): string {
    return this.#url;
  }

  get child(): ChildServer {
    assert(this.#child, 'the server was never started');
    return this.#child;
  }

  get pid(): number {
    return this.child.process.pid ?? 0;
  }

  /** Resolves when it listens. */
  async start(): Promise<void> {
    const child = this.#folder.start({ ...this.#env });
    this.#child = child;
    this.#leaving = false;
    this.#url = await child.listening();
  }

  /** Sends SIGKILL and records it in the ledger; see {@link Ledger.crash} for `writableUntil`. */
  async kill(ledger: Ledger, writableUntil?: number): Promise<void> {
    this.#leaving = true;
    ledger.crash(this.index, writableUntil);
    this.child.process.kill('SIGKILL');
    await this.child.exited();
  }

  /** Sends SIGTERM; resolves with the exit of the process. */
  async stop(): Promise<Exit> {
    this.#leaving = true;
    this.child.process.kill('SIGTERM');
    return this.child.exited();
  }

  /** Fails if a process ended by itself or logged an unhandled error. */
  check(): void {
    const { process: child, lines, errors } = this.child;
    const said = `${JSON.stringify(lines)}${errors.join('\n')}`;
    if (!this.#leaving) {
      const ended = child.exitCode !== null || child.signalCode !== null;
      assert(!ended, `server ${this.index} has ended by itself:\n${said.slice(-3000)}`);
    }
    assert.deepEqual(errors, [], `server ${this.index} wrote to standard error`);
    const unhandled = lines.filter(({ msg }) => msg === 'unhandled error');
    assert.deepEqual(unhandled, [], `server ${this.index} logged an unhandled error`);
    for (const secret of [KEY, SECRET_WORD]) {
      const at = said.indexOf(secret);
      assert(at < 0, `server ${this.index} wrote ${secret} in its log: ${said.slice(at - 300, at + 50)}`);
    }
  }
}

export interface Cluster {
  readonly members: readonly Member[];
  readonly upstream: FakeUpstream;
  /** All calls to the model go through this proxy. */
  readonly upstreamProxy: FaultProxy;
  /** The number of running calls to the model. */
  openCalls(): number;
  readonly folder: string;
  readonly place: StoredIn;
  /** The nth server. */
  at(index: number): Member;
  /** Stops everything, after a check for processes that ended early and for errors in the logs. */
  close(): Promise<void>;
}

/**
 * Starts the first server, which creates the tables, then the others. `database` has the environment variables of the
 * database; empty for SQLite.
 * @param place from where the tests read rows, if the servers reach the database through a proxy
 */
export async function startCluster(
  size: number,
  database: Readonly<Record<string, string>>,
  env: Readonly<Record<string, string>> = {},
  place?: StoredIn,
): Promise<Cluster> {
  const upstream = await startFakeUpstream();
  let open = 0;
  upstream.respond((exchange) => {
    open += 1;
    exchange.response.once('close', () => {
      open -= 1;
    });
    return storyteller(exchange);
  });
  const upstreamProxy = await startFaultProxy(Number(new URL(upstream.baseUrl).port));
  const folder = await makeFolder();
  const model = { OPENAI_BASE_URL: `http://127.0.0.1:${upstreamProxy.port}/v1`, OPENAI_API_KEY: KEY };
  const all = { ...QUICK, ...model, ...database, ...env };
  const members = Array.from({ length: size }, (_, index) => new Member(index, folder, all));
  const closeAll = async () => {
    await folder.remove();
    await upstreamProxy.close();
    await upstream.close();
  };
  try {
    await members[0]?.start();
    await Promise.all(members.slice(1).map((member) => member.start()));
  } catch (error) {
    await closeAll();
    throw error;
  }
  return {
    members,
    upstream,
    upstreamProxy,
    openCalls: () => open,
    folder: folder.path,
    place: place ?? storedIn(database, folder.path),
    at(index) {
      const member = members[index];
      assert(member, `there is no server ${index}`);
      return member;
    },
    async close() {
      try {
        for (const member of members) member.check();
      } finally {
        await closeAll();
      }
    },
  };
}

/** Copies a SQLite file and its companion files in their current state. @returns the place of the copy */
export async function copySqlite(place: StoredIn, to: string): Promise<StoredIn> {
  assert('file' in place);
  const file = join(to, 'copy.sqlite');
  for (const part of ['', '-wal']) {
    await copyFile(`${place.file}${part}`, `${file}${part}`).catch((error: NodeJS.ErrnoException) => {
      if (part === '' || error.code !== 'ENOENT') throw error;
    });
  }
  return { file };
}
