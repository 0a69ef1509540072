/** The limits of several processes together: exact, but for open streams, whose shares are rounded up. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import type { Overrides } from '../../src/compose/index.ts';
import { type ChatServer, databases, startChat, until } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { serverUrls } from '../support/databases.ts';
import { startFaultProxy } from '../support/fault-proxy.ts';
import { type OwnDatabase, startOwnDatabase } from '../support/own-database.ts';
import { provideRedis, REDIS_PASSWORD, type RedisServer, startRedis } from '../support/redis.ts';
import { query } from '../support/snapshot.ts';
import { question } from '../support/story.ts';

const WORKERS = 3;
const STORE_DOWN = /^rate limit store unavailable, counting locally$/;
const REQUESTS = 30;
const EXPORTS = 10;
const STREAMS = 10;
const LIMITS = {
  RATE_LIMIT_REQUESTS: `${REQUESTS}`,
  RATE_LIMIT_EXPORTS: `${EXPORTS}`,
  RATE_LIMIT_STREAMS: `${STREAMS}`,
  // Each caller of a test has an address of its own.
  TRUST_PROXY: '1',
};

const workerRows = z.array(z.object({ id: z.string(), beat: z.number() }));

let callers = 0;
const newAddress = () => `10.${process.pid % 256}.${callers >> 8}.${callers++ & 255}`;

/** Every process has looked around once since the last of them showed itself. */
async function untilAllKnow(count: number, read: () => Promise<unknown>): Promise<void> {
  const beats = async () => new Map(workerRows.parse(await read()).map(({ id, beat }) => [id, beat]));
  const first = await until('all workers', async () => {
    const found = await beats();
    return found.size >= count && found;
  });
  await until('another look of all', async () => {
    const found = await beats();
    // One that has gone was left by an earlier test.
    return [...first].every(([id, beat]) => (found.get(id) ?? Number.POSITIVE_INFINITY) >= beat + 2);
  });
}

/** The same for two servers of this process, whether they share a database or not. */
const untilBothKnow = (...servers: [ChatServer, ChatServer]): Promise<void> =>
  untilAllKnow(2, async () =>
    (
      await Promise.all(
        servers.map(({ server }) => server.database.knex.select('id', 'beat').from('workers')),
      )
    ).flat(),
  );

/** Whether a window of this many seconds lasts long enough; else waits for the next. */
async function roomIn(seconds: number, needed = 8): Promise<void> {
  const left = seconds - ((Date.now() / 1000) % seconds);
  if (left < needed) await pause(left * 1000 + 50);
}

/** The statuses of so many concurrent requests, distributed over the processes. */
async function burst(
  cluster: Cluster,
  size: number,
  path: string,
  body?: () => object,
  signal?: AbortSignal,
): Promise<number[]> {
  const address = newAddress();
  const answers = Array.from({ length: size }, async (_, n) => {
    const response = await fetch(`${cluster.at(n % WORKERS).url}${path}`, {
      method: body ? 'POST' : 'GET',
      headers: { 'x-forwarded-for': address, ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body()) }),
      ...(signal && { signal }),
    });
    if (!signal || response.status !== 200) await response.arrayBuffer();
    return response.status;
  });
  return Promise.all(answers);
}

function assertThrough(statuses: readonly number[], limit: number): void {
  const through = statuses.filter((status) => status === 200).length;
  const refused = statuses.filter((status) => status === 429).length;
  assert.equal(through + refused, statuses.length, `${statuses}`);
  assert.equal(through, limit);
}

/** The suite of processes that share their counts one way or the other. */
function sharing(name: string, start: () => Promise<Cluster>, end: () => Promise<void>): void {
  describe(name, () => {
    let cluster: Cluster;
    before(async () => {
      cluster = await start();
      await untilAllKnow(WORKERS, () => query(cluster.place, 'SELECT id, beat FROM workers'));
    });
    after(async () => {
      await cluster.close();
      await end();
    });

    /**
     * Where the machine is so busy that the store does not answer in half a second, each process is by itself, which
     * is not what these tests are about: they try again then.
     */
    const answered = async (attempt: () => Promise<void>) => {
      const faults = () =>
        cluster.members.flatMap(({ child }) => child.lines).filter(({ msg }) => STORE_DOWN.test(String(msg)))
          .length;
      for (let left = 5; ; left--) {
        const before = faults();
        try {
          return await attempt();
        } catch (error) {
          if (faults() === before || left === 0) throw error;
          await pause(2000);
        }
      }
    };

    it('allow a burst of requests exactly up to the limit', async () => {
      await answered(async () => {
        await roomIn(60);
        assertThrough(await burst(cluster, 3 * REQUESTS, '/openapi.json'), REQUESTS);
      });
    });

    it('allow one request after the other exactly up to the limit', async () => {
      await answered(async () => {
        await roomIn(60, 15);
        const address = newAddress();
        const statuses: number[] = [];
        for (let n = 0; n < 2 * REQUESTS; n++) {
          const url = `${cluster.at(n % WORKERS).url}/openapi.json`;
          const response = await fetch(url, { headers: { 'x-forwarded-for': address } });
          await response.arrayBuffer();
          statuses.push(response.status);
        }
        assertThrough(statuses, REQUESTS);
      });
    });

    it('allow a burst of exports exactly up to the limit', async () => {
      await answered(async () => {
        await roomIn(3600);
        const path = '/api/conversations/export-all?format=ndjson';
        assertThrough(await burst(cluster, 3 * EXPORTS, path), EXPORTS);
      });
    });

    it('have as many streams open as the limit divided among the processes allows, rounded up', async () => {
      await answered(async () => {
        const gone = new AbortController();
        const body = () => ({ message: question({ pieces: 100, pace: 50 }) });
        try {
          const statuses = await burst(cluster, 3 * STREAMS, '/api/chat-stream', body, gone.signal);
          assertThrough(statuses, WORKERS * Math.ceil(STREAMS / WORKERS));
        } finally {
          gone.abort();
        }
      });
    });
  });
}

const program = provideRedis();

for (const place of databases().slice(1)) {
  sharing(
    `${WORKERS} processes on ${place.name}`,
    async () => startCluster(WORKERS, await place.create(), LIMITS),
    () => place.drop(),
  );

  let redis: RedisServer | undefined;
  if (program !== undefined) {
    const store = databases().find(({ name }) => name === place.name);
    assert(store);
    sharing(
      `${WORKERS} processes on ${place.name} that count in Redis`,
      async () => {
        redis = await startRedis(program);
        const env = { ...LIMITS, REDIS_URL: redis.url };
        return startCluster(WORKERS, await store.create(), env);
      },
      async () => {
        await redis?.stop();
        await store.drop();
      },
    );
  }
}

for (const place of databases().slice(1)) {
  it(`a request to a process on ${place.name} costs at most one statement`, async (t) => {
    const env = {
      ...(await place.create()),
      ...LIMITS,
      RATE_LIMIT_REQUESTS: '100000',
      STREAM_LEASE_MS: '400',
    };
    const [chat, other] = [await startChat(env), await startChat(env)];
    t.after(async () => {
      await Promise.all([chat.stop(), other.stop()]);
      await place.drop();
    });
    await untilBothKnow(chat, other);
    let statements = 0;
    chat.server.database.knex.on('query', ({ sql }: { sql: string }) => {
      if (/rate_limits/.test(sql)) statements += 1;
    });
    const ask = async () => {
      for (let n = 0; n < 50; n++) assert.equal((await chat.call('GET', '/openapi.json')).status, 200);
    };
    await Promise.all([ask(), ask(), ask(), ask()]);
    assert.ok(statements >= 50 && statements <= 200, `${statements} statements for 200 requests`);
  });
}

/** No window ends in the middle of a test. */
const stopped = (): Overrides => ({ clock: { now: () => Date.UTC(2030, 2, 21, 12, 30, 20) } });

/** Two servers, of which one loses the store in the middle; what it then lets through, and how fast. */
async function withoutStore(
  start: (env: Record<string, string>, overrides: Overrides) => ReturnType<typeof startChat>,
  lose: () => void | Promise<void>,
): Promise<void> {
  const env = {
    ...LIMITS,
    STREAM_LEASE_MS: '400',
    DB_ACQUIRE_TIMEOUT_MS: '3000',
    DB_QUERY_TIMEOUT_MS: '3000',
  };
  const [chat, other] = [await start(env, stopped()), await start(env, stopped())];
  try {
    await untilBothKnow(chat, other);
    const ask = async (address: string) => {
      const began = performance.now();
      const headers = { 'x-forwarded-for': address };
      const { status } = await chat.call('GET', '/openapi.json', undefined, headers);
      return { status, took: performance.now() - began };
    };
    const many = async (address: string) => {
      const answers = await Promise.all(Array.from({ length: 3 * REQUESTS }, () => ask(address)));
      assert.equal(answers.filter(({ status }) => status === 200).length, REQUESTS);
      return Math.max(...answers.map(({ took }) => took));
    };
    const usual = await many(newAddress());
    await lose();
    const slowest = await many(newAddress());
    // Half a second more; by the timeouts of the stores it is three.
    assert.ok(slowest < usual + 1500, `the first waited ${slowest} ms, before ${usual} ms`);
    // The store is retried in the background.
    const later: number[] = [];
    for (let n = 0; n < 40; n++) {
      const { status, took } = await ask(newAddress());
      assert.equal(status, 200);
      later.push(took);
      await pause(50);
    }
    const sorted = later.toSorted((a, b) => a - b);
    // One that waits for the store waits for half a second.
    assert.ok((sorted[36] ?? 0) < 400, `they waited ${sorted.map(Math.round)} ms`);
    const said = chat.server.lines.filter(({ msg }) => STORE_DOWN.test(String(msg)));
    assert.equal(said.length, 1);
    const all = JSON.stringify(chat.server.lines);
    assert.ok(!all.includes(REDIS_PASSWORD), 'a secret is in the log');
  } finally {
    await Promise.all([chat.stop(), other.stop()]);
  }
}

describe('limits without their shared database', { skip: serverUrls().length === 0 }, () => {
  let own: OwnDatabase;
  before(async () => {
    own = await startOwnDatabase();
  });
  after(() => own.server.stop());

  it('are kept by each process, without delays, when connections are refused', async () => {
    const proxy = await startFaultProxy(own.port);
    await withoutStore(
      (env, overrides) => startChat({ ...own.env(proxy), ...env }, overrides),
      () => {
        proxy.refuse();
        proxy.cut();
      },
    );
    await proxy.close();
  });

  it('are kept by each process with short delays when it is frozen', async () => {
    try {
      await withoutStore(
        (env, overrides) => startChat({ ...own.env(), ...env }, overrides),
        () => own.server.freeze(),
      );
    } finally {
      own.server.thaw();
    }
  });
});

describe('limits in Redis', { skip: program === undefined }, () => {
  let redis: RedisServer;
  before(async () => {
    redis = await startRedis(program ?? '');
  });
  after(() => redis.stop());

  it('are shared by processes with different databases, also across windows', async () => {
    const env = { ...LIMITS, REDIS_URL: redis.url };
    const first = await startChat(env, stopped());
    const address = newAddress();
    const ask = (chat: typeof first) =>
      chat.call('GET', '/openapi.json', undefined, { 'x-forwarded-for': address });
    for (let n = 0; n < REQUESTS; n++) assert.equal((await ask(first)).status, 200);
    await first.stop();
    const second = await startChat(env, stopped());
    assert.equal((await ask(second)).status, 429);
    await second.stop();
  });

  it('are kept by each process with short delays while it is frozen or gone', async () => {
    const start = (env: Record<string, string>, overrides: Overrides) =>
      startChat({ ...env, REDIS_URL: redis.url }, overrides);
    await withoutStore(start, () => redis.freeze());
    redis.thaw();
    await withoutStore(start, () => redis.kill());
    await redis.start();
  });

  it('are kept from the first request if it was never available', async () => {
    const chat = await startChat(
      { ...LIMITS, REDIS_URL: `redis://u:${REDIS_PASSWORD}@127.0.0.1:1` },
      stopped(),
    );
    const address = newAddress();
    const statuses = await Promise.all(
      Array.from({ length: 2 * EXPORTS }, async () => {
        const path = '/api/conversations/export-all?format=ndjson';
        return (await chat.call('GET', path, undefined, { 'x-forwarded-for': address })).status;
      }),
    );
    assert.equal(statuses.filter((status) => status === 200).length, EXPORTS);
    await chat.stop();
    assert.ok(!JSON.stringify(chat.server.lines).includes(REDIS_PASSWORD));
  });
});
