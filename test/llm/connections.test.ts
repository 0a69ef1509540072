import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createHttpServer, request } from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { inspect } from 'node:util';
import {
  createGate,
  delta,
  done,
  finish,
  reply,
  resetAtOnce,
  script,
  silence,
  status,
  thenGarbage,
  wait,
} from '../support/fake-upstream.ts';
import { HELLO, KEY, never, setUp, startStream } from './setup.ts';

test('consecutive calls reuse connections, whether whole, streamed or rejected', async (t) => {
  const { model, upstream } = await setUp(t, { maxRetries: 0 });
  const responses = [reply('x'), status(400), status(500), status(401), reply('y')];
  upstream.respond(responses.flatMap((response) => [response, response]));
  for (const _ of responses) {
    await startStream(model).outcome.catch(() => {});
    await model.complete(HELLO, never()).catch(() => {});
  }
  assert.equal(upstream.requests.length, 10);
  // Two, because a reply ends with its last event, a moment before its connection is free.
  assert.ok(new Set(upstream.requests.map(({ connection }) => connection)).size <= 2);
});

test('a proxy is used where the environment names one, for retried connections too, and never for NO_PROXY', async (t) => {
  const { upstream, ...direct } = await setUp(t);
  let proxied = 0;
  const proxy = createHttpServer((incoming, response) => {
    proxied += 1;
    assert.match(incoming.url ?? '', /^http:/, 'a proxy gets the whole address');
    const { method, headers, url = '' } = incoming;
    incoming.pipe(
      request(url, { method, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      }),
    );
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  t.after(() => proxy.close());
  const address = proxy.address();
  assert(address !== null && typeof address === 'object');
  const HTTP_PROXY = `http://127.0.0.1:${address.port}`;
  const ask = async (proxyEnv: Record<string, string>) => {
    const { model } = await setUp(t, { baseUrl: upstream.baseUrl, proxyEnv });
    proxied = 0;
    await startStream(model).outcome;
    await model.complete(HELLO, never());
    proxy.closeIdleConnections();
    await model.complete(HELLO, never());
    return proxied;
  };
  assert.equal(await ask({ HTTP_PROXY }), 3);
  assert.equal(await ask({ http_proxy: HTTP_PROXY }), 3);
  assert.equal(await ask({ HTTP_PROXY, NO_PROXY: '127.0.0.1' }), 0);
  assert.equal(await ask({}), 0);
  await direct.model.complete(HELLO, never());
  assert.equal(proxied, 0);
});

test('concurrent streams have a connection each', async (t) => {
  const { model, upstream } = await setUp(t);
  const gate = createGate();
  upstream.respond(script(delta('x'), wait(gate), finish(), done()));
  const streams = Array.from({ length: 200 }, () => {
    const begun = Promise.withResolvers<string>();
    return { begun: begun.promise, ...startStream(model, never(), begun.resolve) };
  });
  await Promise.all(streams.map(({ begun }) => begun));
  assert.equal(upstream.connections, 200);
  gate.open();
  await Promise.all(streams.map(({ outcome }) => outcome));
});

test('a connection that stays busy after its reply is closed', async (t) => {
  const { model, upstream } = await setUp(t);
  upstream.respond(script(delta('x'), finish(), done(), silence()));
  await startStream(model).outcome;
  await upstream.waitForClosed(1);
});

test('an idle connection that the upstream closed costs no retry, and only one more request', async (t) => {
  const { model, upstream, lines } = await setUp(t, { maxRetries: 0 });
  upstream.respond([reply('one'), resetAtOnce(), reply('two')]);
  await startStream(model).outcome;
  const second = startStream(model);
  await second.outcome;
  assert.equal(second.deltas.join(''), 'two');
  assert.deepEqual(
    upstream.requests.map(({ connection }) => connection),
    [1, 1, 2],
  );
  assert.deepEqual(lines, []);
  // A new connection that is reset is an error like any other.
  upstream.respond(resetAtOnce());
  await assert.rejects(model.complete(HELLO, never()), { code: 'upstream_error' });
  assert.ok(upstream.requests.length <= 5);
});

test('a stale connection does not fail requests when the upstream closes each after one response', async (t) => {
  const server = await oneResponsePerConnection(t);
  const address = server.address();
  assert(address !== null && typeof address === 'object');
  const { model } = await setUp(t, { baseUrl: `http://127.0.0.1:${address.port}/v1`, maxRetries: 0 });
  for (let n = 0; n < 20; n++) await model.complete(HELLO, never());
});

/** Announces keep-alive and closes after the response, so that the next request may meet a closed connection. */
async function oneResponsePerConnection(t: TestContext): Promise<Server> {
  const body = '{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}';
  const server = createServer((socket: Socket) => {
    let answered = false;
    socket.on('error', () => {});
    socket.on('data', () => {
      if (answered) socket.resetAndDestroy();
      else socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
      answered = true;
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return server;
}

test('close() ends running streams and idle connections', async (t) => {
  const { model, upstream } = await setUp(t, { maxRetries: 0 });
  await startStream(model).outcome;
  upstream.respond(script(delta('x'), silence()));
  const begun = Promise.withResolvers<string>();
  const { outcome } = startStream(model, never(), begun.resolve);
  await begun.promise;
  await model.close();
  await assert.rejects(outcome, { code: 'upstream_incomplete' });
  await upstream.waitForClosed(2);
});

test('the key never gets into a log line or an error', async (t) => {
  const echo = (code: number) => status(code, { 'x-echo': KEY }, JSON.stringify({ error: { message: KEY } }));
  const { model, upstream, lines } = await setUp(t, { headers: { 'x-second-key': `${KEY}-2` } });
  const ends = [echo(401), echo(400), resetAtOnce(), thenGarbage(KEY), echo(500), echo(500), echo(500)];
  upstream.respond(ends);
  const errors: unknown[] = [];
  while (upstream.requests.length < ends.length) {
    await startStream(model).outcome.catch((error: unknown) => errors.push(error));
  }
  await upstream.close();
  await model.complete(HELLO, never()).catch((error: unknown) => errors.push(error));
  // A key that cannot be put into a header: the HTTP layer's own error quotes it.
  const broken = await setUp(t, { apiKey: `${KEY}\nx` });
  await broken.model.complete(HELLO, never()).catch((error: unknown) => errors.push(error));
  assert.equal(broken.upstream.requests.length, 0);
  assert.ok(errors.length >= 6 && lines.length >= 6 && broken.lines.length === 1);
  const everything = inspect([errors, lines, broken.lines], { depth: 20, showHidden: true });
  assert.doesNotMatch(everything, /planted/);
});
