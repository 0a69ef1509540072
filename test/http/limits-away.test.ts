/** Limits of several processes that have lost their shared store, or never had it. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { Overrides } from '../../src/compose/index.ts';
import { startChat } from '../support/chat-server.ts';
import { serverUrls } from '../support/databases.ts';
import { startFaultProxy } from '../support/fault-proxy.ts';
import { type OwnDatabase, startOwnDatabase } from '../support/own-database.ts';
import { provideRedis, REDIS_PASSWORD, type RedisServer, startRedis } from '../support/redis.ts';
import {
  EXPORTS,
  LIMITS,
  newAddress,
  REQUESTS,
  STORE_DOWN,
  untilBothKnow,
} from '../support/shared-limits.ts';

const program = provideRedis();

/** No window ends in the middle of a test. */
const stopped = (): Overrides => ({ clock: { now: () => Date.UTC(2030, 2, 21, 12, 30, 20) } });

/**
 * Two servers, of which one loses the store in the middle; what it then lets through, and how fast. `restore` runs
 * before they stop, so that they do not wait for the store.
 */
async function withoutStore(
  start: (env: Record<string, string>, overrides: Overrides) => ReturnType<typeof startChat>,
  lose: () => void | Promise<void>,
  restore: () => void,
): Promise<void> {
  const env = {
    ...LIMITS,
    STREAM_LEASE_MS: '400',
    DB_ACQUIRE_TIMEOUT_MS: '10000',
    DB_QUERY_TIMEOUT_MS: '10000',
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
    // Half a second more; by the timeouts of the stores it is three, or ten.
    assert.ok(slowest < usual + 2000, `the first waited ${slowest} ms, before ${usual} ms`);
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
    restore();
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
      () => proxy.accept(),
    );
    await proxy.close();
  });

  it('are kept by each process with short delays when it is frozen', async () => {
    await withoutStore(
      (env, overrides) => startChat({ ...own.env(), ...env }, overrides),
      () => own.server.freeze(),
      () => own.server.thaw(),
    );
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
    await withoutStore(
      start,
      () => redis.freeze(),
      () => redis.thaw(),
    );
    await withoutStore(
      start,
      () => redis.kill(),
      () => {},
    );
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
