/** The limits of several processes together: exact, but for open streams, whose shares are rounded up. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { databases, startChat } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { provideRedis, type RedisServer, startRedis } from '../support/redis.ts';
import {
  EXPORTS,
  LIMITS,
  newAddress,
  REQUESTS,
  STORE_DOWN,
  STREAMS,
  untilAllKnow,
  untilBothKnow,
} from '../support/shared-limits.ts';
import { query } from '../support/snapshot.ts';
import { question } from '../support/story.ts';

const WORKERS = 3;

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
