/** Rows "DB down at start, or gone later", "DB frozen" and "Pool exhausted". */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { balance } from '../support/balance.ts';
import { takeBaseline } from '../support/baseline.ts';
import { ask, deleteConversation, stream } from '../support/caller.ts';
import { until } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { serverUrls } from '../support/databases.ts';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { Ledger } from '../support/ledger.ts';
import { findMariadbd } from '../support/mariadb.ts';
import { type OwnDatabase, startOwnDatabase } from '../support/own-database.ts';
import { rounds } from '../support/random.ts';
import { question } from '../support/story.ts';

/** Several times what the timeouts of the database allow; what has none waits for ever. */
const WITHIN_MS = 30_000;

/** An answer that must be 503 with Retry-After, in a bounded time. */
async function unavailable(url: string, path: string, init: RequestInit = {}): Promise<void> {
  const began = performance.now();
  const response = await fetch(`${url}${path}`, { ...init, signal: AbortSignal.timeout(60_000) });
  const body = await response.text();
  assert.equal(response.status, 503, `${init.method ?? 'GET'} ${path}: ${response.status} ${body}`);
  assert.match(response.headers.get('retry-after') ?? '', /^\d+$/);
  assert.doesNotMatch(body, /ECONN|127\.0\.0\.1|mysql|knex|SELECT/i);
  assert(performance.now() - began < WITHIN_MS, `${path} took ${performance.now() - began} ms`);
}

const post = (body: object, headers: Record<string, string> = {}): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/json', ...headers },
  body: JSON.stringify(body),
});

if (serverUrls().length > 0 && findMariadbd()) {
  /** Of all tests. */
  let database: OwnDatabase;
  const ledger = Object.assign(new Ledger(), { databaseWasAway: true });
  /** Of those that need no settings of their own. */
  let cluster: Cluster;
  before(async () => {
    database = await startOwnDatabase();
    await database.server.kill();
    cluster = await startCluster(2, database.env());
  });
  after(async () => {
    await cluster.close();
    await database.server.stop();
  });

  describe('a database that is unavailable at startup', () => {
    it('allows new conversations, rejects requests that need it before the model is called, and gets all turns when it is back', async () => {
      const { url } = cluster.at(0);

      assert.equal((await fetch(`${url}/health`)).status, 200);
      assert.equal((await fetch(`${url}/health/ready`)).status, 503);
      for (let n = 0; n < 20; n += 1) {
        const entry = ledger.add(question({ pieces: 5, pace: 2 }));
        const outcome = await (n % 2 === 0 ? stream : ask)(cluster.at(n % 2).url, entry);
        assert.equal(outcome, 'ended', String(entry.refusals));
        assert.deepEqual(entry.end, { kind: 'done', finishReason: 'stop', persisted: false });
      }
      const calls = cluster.upstream.requests.length;
      const id = crypto.randomUUID();
      const message = question({ pieces: 1, pace: 0 });
      await unavailable(url, '/api/chat', post({ message, conversation_id: id }));
      await unavailable(url, '/api/chat-stream', post({ message, conversation_id: id }));
      await unavailable(url, '/api/chat', post({ message }, { 'idempotency-key': 'away' }));
      await unavailable(url, '/api/chat-stream', post({ message }, { 'idempotency-key': 'away' }));
      await unavailable(url, '/api/conversations');
      await unavailable(url, `/api/conversations/${id}`);
      await unavailable(url, `/api/conversations/${id}`, { method: 'DELETE' });
      assert.equal(cluster.upstream.requests.length, calls, 'the model was asked for nothing');

      await database.server.start();
      await until('readiness', async () => (await fetch(`${url}/health/ready`)).status === 200);
      await balance(ledger, database.place, { absent: [message] });
      // The one of the two processes that has not replayed learns with its own next look that the database is back.
      await until('a turn that goes to the database immediately', async () => {
        const later = ledger.add(question({ pieces: 2, pace: 0 }));
        assert.equal(await ask(url, later), 'ended');
        return later.end?.kind === 'done' && later.end.persisted;
      });
      await balance(ledger, database.place);
    });
  });

  describe('a database that is frozen', () => {
    it('fails within the statement timeout, delays neither the event loop nor a stream, and has everything once after it resumes', async (t) => {
      t.after(() => database.server.thaw());
      const { url } = cluster.at(0);
      const warm = ledger.add(question({ pieces: 3, pace: 1 }));
      assert.equal(await ask(url, warm), 'ended');
      const baseline = await takeBaseline(cluster);

      const running = Array.from({ length: 20 }, (_, n) => {
        const { index, url: at } = cluster.at(n % 2);
        const entry = ledger.add(question({ pieces: 20 + n * 3, pace: 20 }), { server: index });
        return [entry, stream(at, entry)] as const;
      });
      await pause(200);
      database.server.freeze();
      const pulse = new AbortController();
      const beating = heartbeats(url, pulse.signal);
      // A statement under way may hold a question up for the time of a query, not longer.
      const fresh = Array.from({ length: 6 }, (_, n) => {
        const entry = ledger.add(question({ pieces: 3, pace: 1 }), { server: n % 2 });
        return [entry, (n < 3 ? ask : stream)(cluster.at(n % 2).url, entry)] as const;
      });
      await unavailable(url, '/api/conversations');
      await unavailable(url, `/api/conversations/${warm.conversationId}`);
      for (const [entry, outcome] of [...running, ...fresh]) {
        assert.equal(await outcome, 'ended', `${entry.question}: ${entry.refusals}`);
        assert.equal(entry.end?.kind, 'done');
      }
      pulse.abort();
      // A query takes 2 s here until it is given up. One may be slow because the machine is busy.
      const slow = (await beating).filter((ms) => ms > 1000);
      assert(slow.length <= 1, `/health took ${slow} ms`);

      database.server.thaw();
      await until('readiness', async () => (await fetch(`${url}/health/ready`)).status === 200);
      await balance(ledger, database.place);
      await baseline.back();
    });
  });

  describe('a conversation that is still in the journal when the database is back', () => {
    it('is not unknown: reads and deletions return its true state, and a deletion wins', async () => {
      for (let n = 0; n < rounds(2, 6); n += 1) {
        await database.server.kill();
        const entries = Array.from({ length: 6 }, () => ledger.add(question({ pieces: 2, pace: 1 })));
        for (const entry of entries) assert.equal(await ask(cluster.at(0).url, entry), 'ended');
        await database.server.start();
        const each = entries.map(async (entry, i) => {
          const { url } = cluster.at(i % 2);
          if (i < 2) {
            return until('a reading', async () => {
              const { status } = await whole(await fetch(`${url}/api/conversations/${entry.conversationId}`));
              return status !== 503 && status;
            });
          }
          return until('a deletion', async () => {
            const status = await deleteConversation(url, [entry]);
            return status !== 503 && status;
          });
        });
        assert.deepEqual(await Promise.all(each), [200, 200, 200, 200, 200, 200]);
      }
      await balance(ledger, database.place);
      await pause(1500);
      await balance(ledger, database.place, { withinMs: 0 });
    });
  });

  describe('a full journal', () => {
    it('rejects new questions, reports replies that it cannot store, and leaves nothing open afterwards', async (t) => {
      const small = await startCluster(1, database.env(), { JOURNAL_MAX_BYTES: '1mb' });
      t.after(() => small.close());
      const { url } = small.at(0);
      const long = () => `${'满'.repeat(20_000)} ${question({ pieces: 2, pace: 0 })}`;
      const running = Array.from({ length: 4 }, () => {
        const entry = ledger.add(question({ pieces: 250, pace: 20 }));
        return [entry, stream(url, entry)] as const;
      });
      await until('the streams', () => running.every(([{ shown }]) => shown.length > 100));
      await database.server.kill();
      const since = performance.now();
      const before = ledger.entries.length;
      const answers = await until('a refusal', async () => {
        const entry = ledger.add(long());
        await ask(url, entry);
        return entry.refusals.length > 0 && ledger.entries.length - before;
      });
      t.diagnostic(`${answers} long questions fill the journal`);
      await unavailable(url, '/api/chat', post({ message: long() }));
      for (const [entry, outcome] of running) {
        assert.equal(await outcome, 'ended');
        assert.equal(entry.shown, entry.expected);
        Object.assign(entry, { mayBreak: true, unwritableSince: since });
      }
      await database.server.start();
      await until('readiness', async () => (await fetch(`${url}/health/ready`)).status === 200);
      await balance(ledger, database.place);
    });
  });

  describe('an exhausted pool', () => {
    it('delays requests for a bounded time, while running replies are saved', async (t) => {
      const proxy = await startFaultProxy(database.port);
      const env = { DB_POOL_MAX: '2', DB_ACQUIRE_TIMEOUT_MS: '500', DB_QUERY_TIMEOUT_MS: '20000' };
      const small = await startCluster(1, database.env(proxy), env, database.place);
      t.after(async () => {
        proxy.resume();
        await small.close();
        await proxy.close();
      });
      await exhaust(small, ledger, proxy);
    });
  });
}

const SAVED = { kind: 'done', finishReason: 'stop', persisted: true };

async function exhaust(cluster: Cluster, ledger: Ledger, proxy: FaultProxy): Promise<void> {
  const { url } = cluster.at(0);
  const held = ledger.add(question({ pieces: 2, pace: 1 }));
  const other = ledger.add(question({ pieces: 2, pace: 1 }));
  for (const entry of [held, other]) {
    assert.equal(await ask(url, entry), 'ended');
    assert.deepEqual(entry.end, SAVED);
  }
  const running = Array.from({ length: 5 }, () => {
    const entry = ledger.add(question({ pieces: 60, pace: 20 }));
    return [entry, stream(url, entry)] as const;
  });
  await until('the streams', () => running.every(([{ acknowledged }]) => acknowledged));
  // Both connections of the pool are taken by statements that get no answer.
  proxy.hold(String(held.conversationId));
  const stuck = [1, 2].map(() => fetch(`${url}/api/conversations/${held.conversationId}`));
  await pause(200);
  const began = performance.now();
  const waiting = Array.from({ length: 40 }, () =>
    unavailable(url, `/api/conversations/${other.conversationId}`),
  );
  await Promise.all(waiting);
  // One after the other they take 20 s.
  assert(performance.now() - began < 10_000, `40 in the queue took ${performance.now() - began} ms`);
  assert.equal((await fetch(`${url}/health`)).status, 200);
  for (const [entry, outcome] of running) {
    assert.equal(await outcome, 'ended');
    assert.deepEqual(entry.end, SAVED);
  }
  proxy.resume();
  for (const response of await Promise.all(stuck)) assert.equal(response.status, 200);
  assert.equal((await fetch(`${url}/api/conversations/${other.conversationId}`)).status, 200);
  await balance(ledger, cluster.place);
}

/** Read to its end, so that its connection is free again. */
async function whole(response: Response): Promise<Response> {
  await response.arrayBuffer();
  return response;
}

/** How long /health took each time, in milliseconds, until the signal. */
async function heartbeats(url: string, signal: AbortSignal): Promise<number[]> {
  const took: number[] = [];
  while (!signal.aborted) {
    const began = performance.now();
    const response = await fetch(`${url}/health`);
    await response.arrayBuffer();
    assert.equal(response.status, 200);
    took.push(performance.now() - began);
    await pause(25);
  }
  return took;
}
