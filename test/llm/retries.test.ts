import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { AppError } from '../../src/domain/errors.ts';
import {
  arrive,
  type Handler,
  raw,
  reply,
  reset,
  resetAtOnce,
  role,
  script,
  status,
  thenReset,
} from '../support/fake-upstream.ts';
import { HELLO, never, type Setup, setUp, startStream } from './setup.ts';

/** Both methods fail and recover alike. */
const WAYS: readonly [string, (model: Setup['model'], signal?: AbortSignal) => Promise<unknown>][] = [
  ['complete', (model, signal = never()) => model.complete(HELLO, signal)],
  ['stream', (model, signal = never()) => startStream(model, signal).outcome],
];

async function failure(promise: Promise<unknown>): Promise<AppError> {
  const error: unknown = await promise.then(
    () => assert.fail('it did not fail'),
    (reason: unknown) => reason,
  );
  assert(error instanceof AppError);
  return error;
}

const THREE = 3;
const CASES: readonly [name: string, handler: Handler, code: string, attempts: number][] = [
  ['408', status(408), 'upstream_error', THREE],
  ['409', status(409), 'upstream_error', THREE],
  ['429', status(429), 'upstream_busy', THREE],
  ['500', status(500), 'upstream_error', THREE],
  [
    '502 with a web page',
    status(502, { 'content-type': 'text/html' }, '<h1>says no'),
    'upstream_error',
    THREE,
  ],
  ['503', status(503), 'upstream_busy', THREE],
  ['504', status(504), 'upstream_error', THREE],
  ['429 that forbids a retry', status(429, { 'x-should-retry': 'false' }), 'upstream_busy', 1],
  ['429 with Retry-After: 3600', status(429, { 'retry-after': '3600' }), 'upstream_busy', 1],
  ['429 without quota', status(429, {}, '{"error":{"code":"insufficient_quota"}}'), 'upstream_quota', 1],
  ['402', status(402), 'upstream_quota', 1],
  ['401', status(401), 'upstream_error', 1],
  ['403', status(403), 'upstream_error', 1],
  ['400 of a filter', status(400, {}, '{"error":{"code":"content_filter"}}'), 'upstream_filtered', 1],
  ['400', status(400), 'upstream_rejected', 1],
  ['404', status(404), 'upstream_rejected', 1],
  ['413', status(413), 'upstream_rejected', 1],
  ['422', status(422), 'upstream_rejected', 1],
  ['a redirect', status(301, { location: 'http://127.0.0.1:1/' }), 'upstream_rejected', 1],
];

for (const [way, ask] of WAYS) {
  for (const [name, handler, code, attempts] of CASES) {
    test(`${way}: ${name} is ${code} after ${attempts} of 3 attempts`, async (t) => {
      const { model, upstream, lines } = await setUp(t);
      upstream.respond(handler);
      const error = await failure(ask(model));
      assert.equal(error.code, code);
      assert.equal(upstream.requests.length, attempts);
      assert.doesNotMatch(error.message, /says no/);
      assert.equal(lines.length, attempts, 'a line for each attempt');
      assert.match(JSON.stringify(lines.at(-1)), /"upstream_status":\d+,"upstream_request_id":"req-fake-1"/);
    });
  }

  test(`${way}: connections reset before a response are retried, then upstream_error`, async (t) => {
    const { model, upstream } = await setUp(t);
    upstream.respond(resetAtOnce());
    assert.equal((await failure(ask(model))).code, 'upstream_error');
    assert.equal(upstream.requests.length, THREE);
  });

  test(`${way}: a refused connection is retried, then upstream_error`, async (t) => {
    const { model, upstream, lines } = await setUp(t);
    await upstream.close();
    assert.equal((await failure(ask(model))).code, 'upstream_error');
    assert.equal(lines.length, THREE);
    assert.match(JSON.stringify(lines), /ECONNREFUSED/);
  });

  test(`${way}: transient errors are not seen by the caller`, async (t) => {
    const { model, upstream } = await setUp(t);
    upstream.respond([status(500), status(429), reply('well')]);
    await ask(model);
    assert.equal(upstream.requests.length, THREE);
  });

  test(`${way}: with no retries allowed there is one attempt`, async (t) => {
    const { model, upstream } = await setUp(t, { maxRetries: 0 });
    upstream.respond(status(500));
    assert.equal((await failure(ask(model))).code, 'upstream_error');
    assert.equal(upstream.requests.length, 1);
  });

  test(`${way}: a long Retry-After is passed on without waiting, in seconds`, async (t) => {
    const { model, upstream } = await setUp(t, { timeoutMs: 120_000 });
    upstream.respond([
      status(429, { 'retry-after': '3600' }),
      status(503, { 'retry-after': new Date(Date.now() + 100_000).toUTCString() }),
      status(429, { 'retry-after-ms': '21500' }),
    ]);
    assert.equal((await failure(ask(model))).retryAfter, 3600);
    const { code, retryAfter = 0 } = await failure(ask(model));
    assert.equal(code, 'upstream_busy');
    assert.ok(retryAfter > 90 && retryAfter <= 100);
    assert.equal((await failure(ask(model))).retryAfter, 22);
    assert.equal(upstream.requests.length, 3);
  });

  test(`${way}: a short Retry-After is respected`, async (t) => {
    const { model, upstream } = await setUp(t);
    upstream.respond([status(429, { 'retry-after-ms': '80' }), status(503, { 'retry-after': '0.08' })]);
    await ask(model);
    const times = upstream.requests.map(({ at }) => at);
    for (const i of [0, 1]) assert.ok((times[i + 1] ?? 0) - (times[i] ?? 0) >= 79);
  });

  test(`${way}: no wait exceeds the time for the whole call`, async (t) => {
    const { model, upstream } = await setUp(t, { timeoutMs: 1000 });
    upstream.respond(status(429, { 'retry-after': '2' }));
    const { code, retryAfter } = await failure(ask(model));
    assert.deepEqual([code, retryAfter, upstream.requests.length], ['upstream_busy', 2, 1]);
  });

  test(`${way}: an abort ends the wait before a retry`, async (t) => {
    const { model, upstream, lines } = await setUp(t);
    const controller = new AbortController();
    upstream.respond(({ response, request }) => {
      response.once('finish', () => setImmediate(() => controller.abort('stop')));
      return status(429, { 'retry-after': '15' })({ response, request });
    });
    await assert.rejects(ask(model, controller.signal), (error) => error === 'stop');
    assert.equal(upstream.requests.length, 1);
    assert.ok(lines.length <= 1);
  });
}

test('the waits between attempts grow and differ', async (t) => {
  const { model, upstream, lines } = await setUp(t, { maxRetries: 4, retryBaseMs: 40 });
  upstream.respond(status(500));
  await failure(startStream(model).outcome);
  const waits = lines.map(({ fields }) => ('retry_in_ms' in fields ? Number(fields.retry_in_ms) : 0));
  for (const [i, base] of [40, 80, 160, 320].entries()) {
    assert.ok((waits[i] ?? 0) >= base / 2 && (waits[i] ?? 0) <= base, `${waits}`);
  }
});

test('a stream that breaks before its first token is retried, after it never', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond([script(role(), raw(': ping\n\n'), arrive(), reset()), reply('well')]);
  const good = startStream(model);
  await good.outcome;
  assert.equal(good.deltas.join(''), 'well');
  assert.equal(upstream.requests.length, 2);
  upstream.respond([thenReset('one')]);
  const cut = startStream(model);
  assert.equal((await failure(cut.outcome)).code, 'upstream_incomplete');
  assert.deepEqual(cut.deltas, ['one']);
  assert.equal(upstream.requests.length, 3);
});

test('a response that is not HTTP counts as a failed connection', async (t) => {
  const server = createServer((socket) => socket.on('error', () => {}).end('SSH-2.0-OpenSSH\r\n'));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const address = server.address();
  assert(address !== null && typeof address === 'object');
  const { model, lines } = await setUp(t, { baseUrl: `http://127.0.0.1:${address.port}/v1`, maxRetries: 0 });
  assert.equal((await failure(startStream(model).outcome)).code, 'upstream_error');
  assert.doesNotMatch(JSON.stringify(lines), /SSH/);
});
