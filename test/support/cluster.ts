/** Several server processes on one database and one folder, as PM2 starts them on a host, and their model. */
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

/** Short times, so that a test sees in seconds what takes minutes otherwise. */
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

  /** Of the process that runs, or ran last. */
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

  /** SIGKILL, noted in the ledger; see {@link Ledger.crash} for `writableUntil`. */
  async kill(ledger: Ledger, writableUntil?: number): Promise<void> {
    this.#leaving = true;
    ledger.crash(this.index, writableUntil);
    this.child.process.kill('SIGKILL');
    await this.child.exited();
  }

  /** SIGTERM; resolves with how it went. */
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
  /** Every call to the model goes through it. */
  readonly upstreamProxy: FaultProxy;
  /** Calls to the model that are answered at this moment. */
  openCalls(): number;
  readonly folder: string;
  readonly place: StoredIn;
  /** The nth server. */
  at(index: number): Member;
  /** Ends all of it, after looking for processes and log lines that should not be. */
  close(): Promise<void>;
}

/**
 * Starts the first server, which makes the tables, then the others. `database` is the environment that names the
 * database: nothing for SQLite.
 * @param place where the rows are read, when the servers go there through a proxy
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

/** Copies a SQLite file with what belongs to it, as it lies there at this moment, and names the copy. */
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
