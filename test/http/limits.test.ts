/** What one process alone lets each caller do, as callers see it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { Overrides } from '../../src/compose/index.ts';
import { makeKey } from '../../src/services/access/api-key-format.ts';
import { type Answer, databases, problemOf, startChat, until } from '../support/chat-server.ts';
import {
  createGate,
  delta,
  done,
  finish,
  reasoning,
  reply,
  script,
  status,
  thenReset,
  wait,
} from '../support/fake-upstream.ts';
import { bearer, type ProtectedServer, protectedDatabase, startProtected } from '../support/keys.ts';

/** In the middle of a minute, an hour and a day. */
const NOON = Date.UTC(2030, 2, 21, 12, 30, 20);
const SOON = 40_000;

/** Time stands still, so that no window ends in the middle of a test. */
function stoppedClock() {
  const time = { now: NOON };
  return { time, overrides: { clock: { now: () => time.now } } };
}

async function protectedChat(
  t: TestContext,
  env: Record<string, string>,
  overrides: Overrides = stoppedClock().overrides,
): Promise<ProtectedServer> {
  const chat = await startProtected(sqlitePlace(), env, overrides);
  t.after(() => chat.stop());
  return chat;
}

async function open(
  t: TestContext,
  env: Record<string, string>,
  overrides: Overrides = stoppedClock().overrides,
) {
  const chat = await startChat(env, overrides);
  t.after(() => chat.stop());
  return chat;
}

const [sqlite] = databases();

function sqlitePlace() {
  assert(sqlite);
  return sqlite;
}

const times = <T>(n: number, make: (n: number) => T): T[] =>
  Array.from({ length: n }, (_, index) => make(index));

function counts(answers: readonly Answer[]): Record<number, number> {
  const all: Record<number, number> = {};
  for (const { status: code } of answers) all[code] = (all[code] ?? 0) + 1;
  return all;
}

const limitsOf = ({ headers }: Answer) => [headers['ratelimit-policy'], headers.ratelimit];

/** A 429 that names its policy. */
function assertRefused(answer: Answer, policy: string, retryAfter: string): void {
  const { detail } = problemOf(answer, 429, 'rate_limited');
  assert.match(detail, new RegExp(`"${policy}"`));
  assert.equal(answer.headers['retry-after'], retryAfter);
  assert.match(String(answer.headers.ratelimit), new RegExp(`"${policy}";r=0`));
  assert.match(String(answer.headers['ratelimit-policy']), new RegExp(`"${policy}";q=`));
}

describe('requests per minute', () => {
  it('are exactly the limit for each key, also under concurrency', async (t) => {
    const chat = await protectedChat(t, { RATE_LIMIT_REQUESTS: '20' });
    const [alice, bob] = [await chat.person('alice'), await chat.person('bob')];
    const ask = () => alice.call('GET', '/api/conversations');
    assert.deepEqual(counts(await Promise.all(times(60, ask))), { 200: 20, 429: 40 });
    assert.equal((await bob.call('GET', '/api/conversations')).status, 200);
    const again = await alice.call('POST', '/api/chat', { message: 'x' });
    assert.equal(again.status, 429);
    assert.equal(chat.upstream.requests.length, 0);
  });

  it('are in the headers of every response, errors included, and reset each minute', async (t) => {
    const { time, overrides } = stoppedClock();
    const chat = await protectedChat(t, { RATE_LIMIT_REQUESTS: '3', RATE_LIMIT_STREAMS: '2' }, overrides);
    const alice = await chat.person('alice');
    const policy = '"requests";q=3;w=60';
    assert.deepEqual(limitsOf(await alice.call('GET', '/api/conversations')), [
      policy,
      '"requests";r=2;t=40',
    ]);
    const missing = await alice.call('GET', `/api/conversations/${crypto.randomUUID()}`);
    assert.deepEqual([missing.status, ...limitsOf(missing)], [404, policy, '"requests";r=1;t=40']);
    const stream = await alice.call('POST', '/api/chat-stream', {});
    assert.deepEqual(
      [stream.status, ...limitsOf(stream)],
      [400, `${policy}, "streams";q=2;qu="concurrent-requests"`, '"requests";r=0;t=40, "streams";r=1'],
    );
    time.now += 500;
    const refused = await alice.call('GET', '/api/conversations');
    assertRefused(refused, 'requests', '40');
    assert.deepEqual(limitsOf(refused), [policy, '"requests";r=0;t=40']);
    time.now = NOON + SOON - 1;
    assertRefused(await alice.call('GET', '/api/conversations'), 'requests', '1');
    time.now += 1;
    assert.deepEqual(limitsOf(await alice.call('GET', '/api/conversations')), [
      policy,
      '"requests";r=2;t=60',
    ]);
  });

  it('are not counted on open routes', async (t) => {
    const chat = await open(t, { RATE_LIMIT_REQUESTS: '1' });
    for (const path of ['/', '/health', '/api/health', '/health/ready', '/nothing-here']) {
      for (let n = 0; n < 3; n++) {
        const answer = await chat.call('GET', path);
        assert.notEqual(answer.status, 429);
        assert.deepEqual(limitsOf(answer), [undefined, undefined]);
      }
    }
    assert.equal((await chat.call('GET', '/api/conversations')).status, 200);
    assertRefused(await chat.call('GET', '/docs'), 'requests', '40');
  });

  it('have no limit and no header without authentication and settings', async (t) => {
    const chat = await open(t, {});
    const answers = await Promise.all(times(100, () => chat.call('GET', '/api/conversations')));
    assert.deepEqual(counts(answers), { 200: 100 });
    assert.deepEqual(limitsOf(answers[0] as Answer), [undefined, undefined]);
  });

  it('are exposed to pages of other origins', async (t) => {
    const chat = await open(t, { RATE_LIMIT_REQUESTS: '5' });
    const answer = await chat.call('GET', '/api/conversations', undefined, {
      origin: 'http://localhost:3000',
    });
    const exposed = String(answer.headers['access-control-expose-headers']).split(',');
    for (const name of ['RateLimit', 'RateLimit-Policy', 'Retry-After'])
      assert.ok(exposed.includes(name), name);
  });
});

describe('the address of a caller without a key', () => {
  const LIMITED = { RATE_LIMIT_REQUESTS: '2' };
  const from = (forwarded: string) => ({ 'x-forwarded-for': forwarded });
  const asker = (call: ProtectedServer['call']) => async (forwarded: string) =>
    (await call('GET', '/api/conversations', undefined, from(forwarded))).status;

  it('is that of the connection, whatever the headers', async (t) => {
    const ask = asker((await open(t, LIMITED)).call);
    assert.deepEqual(
      [await ask('1.1.1.1'), await ask('2.2.2.2'), await ask('::1, 3.3.3.3')],
      [200, 200, 429],
    );
  });

  it('is the last entry behind one proxy, not an earlier one', async (t) => {
    const ask = asker((await open(t, { ...LIMITED, TRUST_PROXY: '1' })).call);
    assert.deepEqual([await ask('6.6.6.6, 1.1.1.1'), await ask('7.7.7.7, 1.1.1.1')], [200, 200]);
    assert.deepEqual([await ask('8.8.8.8, 1.1.1.1'), await ask('1.1.1.1')], [429, 429]);
    assert.deepEqual([await ask('1.1.1.1, 2.2.2.2'), await ask('nonsense')], [200, 200]);
  });

  it('is the last one outside the trusted subnets', async (t) => {
    const ask = asker((await open(t, { ...LIMITED, TRUST_PROXY: 'loopback,10.0.0.0/8' })).call);
    assert.deepEqual([await ask('1.1.1.1, 10.0.0.5'), await ask('9.9.9.9, 1.1.1.1, 10.9.0.1')], [200, 200]);
    assert.deepEqual([await ask('10.1.1.1, 1.1.1.1'), await ask('2.2.2.2')], [429, 200]);
  });

  it('is read with a port, whichever proxy wrote it', async (t) => {
    const ask = asker((await open(t, { ...LIMITED, TRUST_PROXY: 'loopback,10.0.0.0/8' })).call);
    assert.deepEqual([await ask('1.1.1.1:4001, 10.0.0.5:80'), await ask('1.1.1.1:4002')], [200, 200]);
    assert.deepEqual(
      [await ask('1.1.1.1'), await ask('"[2001:db8::1]:80"'), await ask('_a')],
      [429, 200, 200],
    );
  });

  it('is not taken from headers when the connection is not from a trusted subnet', async (t) => {
    const ask = asker((await open(t, { ...LIMITED, TRUST_PROXY: '10.0.0.0/8' })).call);
    assert.deepEqual([await ask('1.1.1.1'), await ask('2.2.2.2'), await ask('3.3.3.3')], [200, 200, 429]);
  });

  it('is a network for IPv6, and the IPv4 address of a mapped one', async (t) => {
    const ask = asker((await open(t, { ...LIMITED, TRUST_PROXY: '1' })).call);
    assert.deepEqual([await ask('2001:db8::1'), await ask('2001:db8:0:0:9::2')], [200, 200]);
    assert.deepEqual([await ask('2001:db8::3'), await ask('2001:db8:0:1::1')], [429, 200]);
    assert.deepEqual(
      [await ask('::ffff:5.5.5.5'), await ask('5.5.5.5'), await ask('5.5.5.5')],
      [200, 200, 429],
    );
  });
});

describe('limits of a key', () => {
  it('replace those of the server, also after a rotation', async (t) => {
    const chat = await protectedChat(t, { RATE_LIMIT_REQUESTS: '3', RATE_LIMIT_STREAMS: '1' });
    const { root } = chat;
    const scopes = ['chat', 'admin'];
    const created = await root.call('POST', '/api/keys', { owner: 'a', scopes, requests: 9, streams: 2 });
    const { key, id, requests, streams } = JSON.parse(created.text);
    assert.deepEqual([created.status, requests, streams], [201, 9, 2]);
    const policies = '"requests";q=9;w=60, "streams";q=2;qu="concurrent-requests"';
    // The second request has the key from the cache.
    for (const left of [8, 7]) {
      const answer = await chat.as({ key, id }).call('POST', '/api/chat-stream', {});
      assert.deepEqual(limitsOf(answer), [policies, `"requests";r=${left};t=40, "streams";r=1`]);
    }
    const rotated = JSON.parse((await root.call('POST', `/api/keys/${id}/rotate`)).text);
    assert.deepEqual([rotated.requests, rotated.streams], [9, 2]);
    const burst = await Promise.all(times(12, () => chat.as(rotated).call('GET', '/api/keys')));
    assert.deepEqual(counts(burst), { 200: 9, 429: 3 });
    const listed = JSON.parse((await root.call('GET', '/api/keys')).text).keys;
    assert.deepEqual(listed[0].requests, 9);
    assert.equal(listed.at(-1).requests, null);
  });

  it('can be none, and must be whole numbers', async (t) => {
    const chat = await protectedChat(t, { RATE_LIMIT_REQUESTS: '7', RATE_LIMIT_STREAMS: '1' });
    const create = (limits: object) =>
      chat.root.call('POST', '/api/keys', { owner: 'a', scopes: ['chat'], ...limits });
    const unlimited = JSON.parse((await create({ requests: 0, streams: 0 })).text);
    assert.deepEqual(limitsOf(await chat.as(unlimited).call('POST', '/api/chat-stream', {})), [
      undefined,
      undefined,
    ]);
    for (const [name, value] of [
      ['requests', -1],
      ['requests', 1.5],
      ['streams', '5'],
      ['streams', 1_000_001],
    ] as const) {
      const { errors } = problemOf(await create({ [name]: value }), 400, 'validation');
      assert.match(
        JSON.stringify(errors),
        new RegExp(`"${name}","message":"must be a whole number from 0 to`),
      );
    }
  });
});

describe('invalid keys', () => {
  it('are counted as requests, as are missing keys and keys without the scope', async (t) => {
    const chat = await protectedChat(t, { RATE_LIMIT_REQUESTS: '2' });
    const reader = await chat.person('alice', ['read']);
    for (const call of [chat.call, reader.call]) {
      const ask = () => call('POST', '/api/chat', { message: 'x' });
      const code = call === chat.call ? 401 : 403;
      const first = await ask();
      assert.deepEqual(
        [first.status, ...limitsOf(first)],
        [code, '"requests";q=2;w=60', '"requests";r=1;t=40'],
      );
      assert.equal((await ask()).status, code);
      assertRefused(await ask(), 'requests', '40');
    }
  });

  it('are limited by address, without blocking recently verified keys from there', async (t) => {
    const { time, overrides } = stoppedClock();
    const chat = await protectedChat(t, { RATE_LIMIT_AUTH_FAILURES: '5', TRUST_PROXY: '1' }, overrides);
    const [known, late] = [await chat.person('alice'), await chat.person('bob')];
    const path = '/api/conversations';
    const guess = (address = '1.1.1.1') =>
      chat.call('GET', path, undefined, { ...bearer(makeKey().key), 'x-forwarded-for': address });
    assert.equal((await known.call('GET', path, undefined, { 'x-forwarded-for': '1.1.1.1' })).status, 200);
    const guesses = await Promise.all(times(15, () => guess()));
    assert.deepEqual(counts(guesses), { 401: 5, 429: 10 });
    assertRefused(await guess(), 'auth-failures', '40');
    assert.equal((await guess('2.2.2.2')).status, 401);
    for (let n = 0; n < 3; n++) {
      assert.equal((await known.call('GET', path, undefined, { 'x-forwarded-for': '1.1.1.1' })).status, 200);
    }
    assert.equal((await late.call('GET', path, undefined, { 'x-forwarded-for': '1.1.1.1' })).status, 429);
    time.now += SOON;
    assert.equal((await late.call('GET', path, undefined, { 'x-forwarded-for': '1.1.1.1' })).status, 200);
  });

  it('do not block a valid key where the address cannot be read', async (t) => {
    const chat = await protectedChat(t, { RATE_LIMIT_AUTH_FAILURES: '2', TRUST_PROXY: '1' });
    const alice = await chat.person('alice');
    const ask = (key: string) =>
      chat.call('GET', '/api/conversations', undefined, { ...bearer(key), 'x-forwarded-for': 'unknown' });
    const guesses = await Promise.all(times(4, () => ask(makeKey().key)));
    assert.deepEqual(counts(guesses), { 401: 2, 429: 2 });
    assert.equal((await ask(alice.key)).status, 200);
  });
});

describe('open streams', () => {
  /** A stream whose headers have come. */
  async function begin(url: string, headers: Record<string, string>, message: string) {
    const outgoing: ClientRequest = request(`${url}/api/chat-stream`, {
      method: 'POST',
      agent: false,
      headers: { 'content-type': 'application/json', ...headers },
    });
    outgoing.on('error', () => {});
    outgoing.end(JSON.stringify({ message }));
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    response.on('error', () => {});
    return { status: response.statusCode, outgoing, response };
  }

  it('are at most the limit, and each ended stream frees a permit', async (t) => {
    const gate = createGate();
    const chat = await protectedChat(t, { RATE_LIMIT_STREAMS: '4', SSE_OPEN_MS: '0' });
    chat.upstream.respond(script(delta('one '), wait(gate), delta('two'), finish(), done()));
    const alice = await chat.person('alice');
    const headers = bearer(alice.key);
    const tried = await Promise.all(times(12, (n) => begin(chat.url, headers, `n ${n}`)));
    const running = tried.filter((stream) => stream.status === 200);
    assert.deepEqual([running.length, tried.filter((stream) => stream.status === 429).length], [4, 8]);
    assertRefused(await alice.call('POST', '/api/chat-stream', { message: 'x' }), 'streams', '1');
    assert.equal(chat.upstream.requests.length, 4);
    // Nothing but streams is held up, and one more is refused to resume too.
    assert.equal((await alice.call('GET', '/api/conversations')).status, 200);
    const streamId = String(running[0]?.response.headers['x-stream-id']);
    assertRefused(await alice.call('GET', `/api/chat-stream/${streamId}`), 'streams', '1');
    // Readers that go.
    for (const stream of running.slice(0, 2)) stream.outgoing.destroy();
    const next = await until('room', async () => {
      const stream = await begin(chat.url, headers, 'later');
      return stream.status === 200 && stream;
    });
    // An end.
    gate.open();
    for (const stream of [...running.slice(2), next]) {
      stream.response.resume();
      await once(stream.response, 'close');
    }
    await until('all of the room', async () => {
      const all = await Promise.all(
        times(4, (n) => alice.call('POST', '/api/chat-stream', { message: `${n}` })),
      );
      return all.every((answer) => answer.status === 200);
    });
  });

  it('take no permit when they fail before they start, are malformed, or break off', async (t) => {
    const chat = await protectedChat(t, { RATE_LIMIT_STREAMS: '1' });
    const alice = await chat.person('alice');
    const ask = (message: unknown) => alice.call('POST', '/api/chat-stream', { message });
    chat.upstream.respond(status(400));
    for (let n = 0; n < 3; n++) assert.equal((await ask(`a ${n}`)).status, 502);
    for (let n = 0; n < 3; n++) assert.equal((await ask(7)).status, 400);
    chat.upstream.respond(thenReset('so'));
    for (let n = 0; n < 3; n++) assert.match((await ask(`b ${n}`)).text, /event: error/);
    for (let n = 0; n < 3; n++) {
      assert.equal((await alice.call('GET', `/api/chat-stream/${crypto.randomUUID()}`)).status, 404);
    }
    await chat.server.database.knex.schema.renameTable('messages', 'away');
    assert.ok((await ask('c')).status >= 500);
    assert.ok((await ask('d')).status >= 500);
    await chat.server.database.knex.schema.renameTable('away', 'messages');
  });
});

describe('exports per hour', () => {
  it('count only started exports, not requests that another limit rejects', async (t) => {
    const { time, overrides } = stoppedClock();
    const chat = await protectedChat(t, { RATE_LIMIT_EXPORTS: '3', RATE_LIMIT_REQUESTS: '8' }, overrides);
    const alice = await chat.person('alice');
    const all = '/api/conversations/export-all?format=csv';
    const job = () => alice.call('POST', '/api/exports', { format: 'csv' });
    assert.equal((await alice.call('HEAD', all)).status, 200);
    const preview = await alice.call('HEAD', `${all}&preview=5`);
    assert.deepEqual([preview.status, preview.headers['content-length']], [200, undefined]);
    assert.equal((await alice.call('GET', all)).status, 200);
    assert.equal((await job()).status, 202);
    const jobs = await alice.call('GET', '/api/exports');
    assert.equal(jobs.status, 200);
    for (let n = 0; n < 3; n++) await alice.call('GET', '/api/conversations');
    const refused = await job();
    assertRefused(refused, 'requests', '40');
    assert.match(String(refused.headers.ratelimit), /"exports";r=1;t=1780/);
    time.now += SOON;
    assert.equal((await alice.call('GET', all)).status, 200);
    assertRefused(await job(), 'exports', String(1780 - SOON / 1000));
    assert.equal((await alice.call('GET', '/api/conversations')).status, 200);
  });

  it('are exactly the limit, also in a burst', async (t) => {
    const chat = await protectedChat(t, { RATE_LIMIT_EXPORTS: '7' });
    const alice = await chat.person('alice');
    const make = () => alice.call('GET', '/api/conversations/export-all?format=ndjson');
    assert.deepEqual(counts(await Promise.all(times(21, make))), { 200: 7, 429: 14 });
  });
});

describe('tokens per day', () => {
  const ANSWER = { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 };

  async function left(alice: Awaited<ReturnType<ProtectedServer['person']>>): Promise<number> {
    const answer = await alice.call('POST', '/api/chat', {});
    return Number(/"tokens";r=(\d+)/.exec(String(answer.headers.ratelimit))?.[1]);
  }

  it('are the usage of the model, and a request over the limit does not reach it', async (t) => {
    const { time, overrides } = stoppedClock();
    const chat = await protectedChat(t, { RATE_LIMIT_TOKENS: '17' }, overrides);
    const alice = await chat.person('alice');
    for (const rest of [9, 1, 0]) {
      const answer = await alice.call('POST', '/api/chat', { message: `${rest}` });
      assert.deepEqual(JSON.parse(answer.text).usage, ANSWER);
      await until('the charge', async () => rest === 0 || (await left(alice)) === rest);
    }
    assertRefused(
      await alice.call('POST', '/api/chat', { message: 'x' }),
      'tokens',
      String(11.5 * 3600 - 20),
    );
    assertRefused(
      await alice.call('POST', '/api/chat-stream', { message: 'x' }),
      'tokens',
      String(11.5 * 3600 - 20),
    );
    assert.equal(chat.upstream.requests.length, 3);
    assert.equal((await alice.call('GET', '/api/conversations')).status, 200);
    time.now += 12 * 3_600_000;
    assert.equal((await alice.call('POST', '/api/chat', { message: 'x' })).status, 200);
  });

  it('are not charged without a call or without a reply', async (t) => {
    const gate = createGate();
    const chat = await protectedChat(t, { RATE_LIMIT_TOKENS: '1000' });
    const alice = await chat.person('alice');
    const ask = (body: object, headers = {}) => alice.call('POST', '/api/chat', body, headers);
    assert.equal((await ask({ message: 'one' }, { 'idempotency-key': 'k' })).status, 200);
    assert.equal(await left(alice), 992);
    // From the cache, and by repetition.
    assert.equal(JSON.parse((await ask({ message: 'one' })).text).cached, true);
    assert.equal(
      (await ask({ message: 'one' }, { 'idempotency-key': 'k' })).headers['idempotent-replayed'],
      'true',
    );
    assert.equal(await left(alice), 992);
    // Five concurrent requests, one call.
    chat.upstream.respond(async (exchange) => {
      await gate.opened;
      await reply('late')(exchange);
    });
    const five = times(5, () => ask({ message: 'two' }));
    await chat.upstream.waitForRequest(2);
    await pause(50);
    gate.open();
    assert.deepEqual(counts(await Promise.all(five)), { 200: 5 });
    assert.equal(chat.upstream.requests.length, 2);
    assert.equal(await left(alice), 984);
    chat.upstream.respond(status(400));
    assert.equal((await ask({ message: 'three' })).status, 502);
    assert.equal(await left(alice), 984);
    assert.equal((await ask({ message: '' })).status, 400);
    assert.equal(await left(alice), 984);
  });

  it('are estimated without usage, also for replies that broke off or had no reader', async (t) => {
    const chat = await protectedChat(t, { RATE_LIMIT_TOKENS: '1000', SSE_OPEN_MS: '0' });
    const alice = await chat.person('alice');
    chat.upstream.respond(reply('x'.repeat(36), { usage: false }));
    assert.equal((await alice.call('POST', '/api/chat', { message: 'four' })).status, 200);
    assert.equal(await left(alice), 990);
    chat.upstream.respond(thenReset('x'.repeat(36)));
    assert.match((await alice.call('POST', '/api/chat-stream', { message: 'five' })).text, /event: error/);
    await until('the charge', async () => (await left(alice)) === 980);
    const gate = createGate();
    chat.upstream.respond(script(delta('x'.repeat(16)), wait(gate), delta('y'.repeat(20)), finish(), done()));
    const gone = new AbortController();
    const response = await fetch(`${chat.url}/api/chat-stream`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...bearer(alice.key) },
      body: JSON.stringify({ message: 'gone' }),
      signal: gone.signal,
    });
    assert.equal(response.status, 200);
    gone.abort();
    gate.open();
    await until('the charge', async () => (await left(alice)) === 970);
    chat.upstream.respond([
      script(reasoning('x'.repeat(20)), delta('x'.repeat(16)), finish(), done()),
      script(reasoning('x'.repeat(36)), done()),
    ]);
    for (const [message, rest] of [
      ['good', 960],
      ['cut.', 950],
    ] as const) {
      await alice.call('POST', '/api/chat-stream', { message });
      await until('the charge', async () => (await left(alice)) === rest);
    }
  });

  it('stay charged after a restart', async (t) => {
    const place = await protectedDatabase(sqlitePlace());
    t.after(() => place.remove());
    const start = () => place.start({ RATE_LIMIT_TOKENS: '8' }, stoppedClock().overrides);
    const first = await start();
    const alice = await first.person('alice');
    assert.equal((await alice.call('POST', '/api/chat', { message: 'x' })).status, 200);
    await first.stop();
    const second = await start();
    try {
      const answer = await second.call('POST', '/api/chat', { message: 'y' }, bearer(alice.key));
      problemOf(answer, 429, 'rate_limited');
      assert.equal(second.upstream.requests.length, 0);
    } finally {
      await second.stop();
    }
  });
});
