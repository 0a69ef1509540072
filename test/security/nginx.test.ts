/** The site deploy/nginx.conf, run by the real nginx in front of a server that asks for keys. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { read } from '../docs/documents.ts';
import { databases, startChat, until } from '../support/chat-server.ts';
import { createGate, delta, done, finish, script, usage, wait } from '../support/fake-upstream.ts';
import { bearer, type Person, type ProtectedServer, startProtected } from '../support/keys.ts';
import { type Nginx, type NginxRequest, provideNginx, startNginx } from '../support/nginx.ts';
import { SseReader } from '../support/sse-client.ts';

const [SQLITE] = databases();
const SETTINGS = { TRUST_PROXY: '1', ALLOWED_HOSTS: 'chat.example.com', SSE_HEARTBEAT_MS: '200' };
const LARGEST = 1024 * 1024;

const programs = provideNginx();
const skip = programs === undefined && 'there is no nginx here';

const SITE = read('deploy/nginx.conf');

describe('nginx with deploy/nginx.conf', { skip }, () => {
  let chat: ProtectedServer;
  let nginx: Nginx;
  let alice: Person;

  before(async () => {
    assert(programs && SQLITE);
    chat = await startProtected(SQLITE, { ...SETTINGS, RATE_LIMIT_AUTH_FAILURES: '3' });
    nginx = await startNginx(programs, SITE, new URL(chat.url).host);
    alice = await chat.person('alice');
  });
  after(async () => {
    await nginx?.stop();
    await chat?.stop();
  });

  const ask = (path: string, options: NginxRequest = {}) =>
    nginx.send(path, { ...options, headers: { ...bearer(alice.key), ...options.headers } });
  const say = (message: string, headers: Record<string, string> = {}) =>
    ask('/api/chat', { method: 'POST', body: { message }, headers });
  const stream = async (message: string) =>
    new SseReader(await ask('/api/chat-stream', { method: 'POST', body: { message, cache: false } }));

  it('passes keys in either header, and rejects requests without', async () => {
    assert.equal(await statusOf(nginx.send('/api/conversations')), 401);
    assert.equal(await statusOf(ask('/api/conversations')), 200);
    assert.equal(
      await statusOf(nginx.send('/api/conversations', { headers: { 'x-api-key': alice.key } })),
      200,
    );
    assert.equal(await statusOf(nginx.send('/health')), 200);
  });

  it('counts wrong keys by the real address, whatever X-Forwarded-For says', async () => {
    const wrong = (from: string, spoofed: string) =>
      statusOf(
        nginx.send('/api/conversations', {
          localAddress: from,
          headers: { 'x-api-key': 'ck_no', 'x-forwarded-for': spoofed },
        }),
      );
    const statuses: number[] = [];
    for (let n = 1; n <= 5; n += 1) statuses.push(await wrong('127.0.0.2', `198.51.100.${n}, 192.0.2.${n}`));
    assert.deepEqual(statuses, [401, 401, 401, 429, 429]);
    assert.equal(await wrong('127.0.0.3', '127.0.0.2'), 401, 'another address pays for it');
  });

  it('has the real address in audit lines', async () => {
    const headers = {
      'x-forwarded-for': '198.51.100.7',
      'x-request-id': 'spoofed',
      forwarded: 'for=198.51.100.7',
    };
    const answer = await nginx.send('/api/keys', { localAddress: '127.0.0.4', headers });
    const line = chat.server.lines.find(
      ({ audit, subject }) => audit === true && subject === 'address 127.0.0.4',
    );
    assert.equal(answer.statusCode, 401);
    assert.equal(line?.path, '/api/keys');
    assert.equal(line?.request_id, answer.headers['x-request-id']);
    assert.notEqual(line?.request_id, 'spoofed');
  });

  it('passes events on before the reply ends', async () => {
    const gate = createGate();
    chat.upstream.respond([
      script(delta('First,'), wait(gate), delta(' then last.'), finish(), usage(), done()),
    ]);
    const reader = await stream('in two parts');
    assert.equal(reader.headers['content-type'], 'text/event-stream; charset=utf-8');
    assert.equal((await reader.until('content')).content, 'First,');
    await reader.until('ping');
    gate.open();
    assert.equal((await reader.rest()).at(-1)?.type, 'done');
  });

  it('passes Last-Event-ID on', async () => {
    const reader = await stream('to be read twice');
    const events = await reader.rest();
    const [first] = events.filter(({ type }) => type === 'content');
    const path = `/api/chat-stream/${reader.headers['x-stream-id']}`;
    assert(first);
    const resumed = new SseReader(await ask(path, { headers: { 'last-event-id': first.id } }));
    assert.equal((await resumed.until('start')).data.offset, first.content.length);
    assert.equal(await statusOf(ask(path, { headers: { 'last-event-id': String(events.at(-1)?.id) } })), 204);
  });

  it('passes Idempotency-Key on', async () => {
    const headers = { 'idempotency-key': 'once-through-nginx' };
    const [first, second] = [await say('only once', headers), await say('only once', headers)];
    assert.deepEqual([first.statusCode, second.statusCode], [200, 200]);
    assert.equal(second.headers['idempotent-replayed'], 'true');
    assert.equal(await text(second), await text(first));
  });

  it('accepts bodies as large as the server does, and no larger', async () => {
    const body = (bytes: number) => {
      const [head, tail] = ['{"message":"x","padding":"', '"}'];
      return head + 'x'.repeat(bytes - head.length - tail.length) + tail;
    };
    const send = (bytes: number) => statusOf(ask('/api/chat', { method: 'POST', body: body(bytes) }));
    assert.equal(await send(LARGEST), 200);
    assert.equal(await send(LARGEST + 1), 413);
  });

  it('sets HSTS over TLS, and redirects to it', async () => {
    const secure = await nginx.send('/health', { headers: { 'x-forwarded-proto': 'http' } });
    assert.match(secure.headers['strict-transport-security'] ?? '', /max-age=31536000/);
    const direct = await fetch(`${chat.url}/health`);
    assert.equal(direct.headers.get('strict-transport-security'), null);
    const plain = await nginx.sendPlain('/api/chat?a=1', { host: 'chat.example.com' });
    assert.deepEqual(
      [plain.statusCode, plain.headers.location],
      [308, 'https://chat.example.com/api/chat?a=1'],
    );
    assert.equal(plain.headers['strict-transport-security'], undefined);
  });

  it('serves no other host name', async () => {
    await assert.rejects(nginx.send('/health', { servername: 'other.example.com' }));
    await assert.rejects(nginx.send('/health', { headers: { host: 'other.example.com' } }));
    await assert.rejects(nginx.sendPlain('/health', { host: 'other.example.com' }));
  });

  it('reveals no version, neither its own nor the server’s', async () => {
    const { headers } = await nginx.send('/health');
    assert.deepEqual([headers.server, headers['x-powered-by']], ['nginx', undefined]);
  });

  it('opens a signed link without a key, with ranges, and logs neither it nor keys nor messages', async () => {
    await text(await say('a-very-private-question'));
    const started = await ask('/api/exports', { method: 'POST', body: { format: 'ndjson' } });
    const { id } = JSON.parse(await text(started));
    await until(
      'the export',
      async () => JSON.parse(await text(await ask(`/api/exports/${id}`))).file !== null,
    );
    const made = await ask(`/api/exports/${id}/link`, { method: 'POST', body: { expires_in: 60 } });
    const { url } = JSON.parse(await text(made));
    const file = await nginx.send(url);
    assert.equal(file.statusCode, 200);
    const whole = await text(file);
    assert.match(whole, /a-very-private-question/);
    const part = await nginx.send(url, { headers: { range: 'bytes=5-9' } });
    assert.deepEqual([part.statusCode, await text(part)], [206, whole.slice(5, 10)]);
    const forged = url.replace(/.$/, (last: string) => (last === 'A' ? 'B' : 'A'));
    assert.equal(await statusOf(nginx.send(forged)), 403);
    const { signature } = Object.fromEntries(new URLSearchParams(url.split('?')[1]));
    const path = url.split('?')[0];
    const logged = await until(
      'the log',
      () => nginx.accessLog().includes(`${path} 403`) && nginx.accessLog(),
    );
    for (const secret of [signature, alice.key, 'a-very-private-question']) {
      assert(secret && !logged.includes(secret));
      assert(!JSON.stringify(chat.server.lines).includes(secret));
    }
  });
});

it('nginx closes idle connections before a worker that stops does', { skip }, async (t) => {
  assert(programs);
  const server = createServer((_request, response) => response.end('served'));
  server.keepAliveTimeout = 60_000;
  const connected = once(server.listen(0, '127.0.0.1'), 'connection');
  await once(server, 'listening');
  t.after(() => server.close().closeAllConnections());
  const nginx = await startNginx(programs, SITE, `127.0.0.1:${(server.address() as AddressInfo).port}`);
  t.after(() => nginx.stop());
  assert.equal(await statusOf(nginx.send('/')), 200);
  const served = performance.now();
  const [socket]: Socket[] = await connected;
  assert(socket && !socket.destroyed);
  await once(socket, 'close');
  const idle = performance.now() - served;
  // A worker keeps them for 5 s; nginx would by itself for 60 s.
  assert(idle > 1000 && idle < 5000, `${idle} ms`);
});

describe('nginx with small limits,', { skip }, () => {
  let chat: ProtectedServer;
  let nginx: Nginx;

  before(async () => {
    assert(programs && SQLITE);
    chat = await startProtected(SQLITE, { ...SETTINGS, SSE_OPEN_MS: '100' });
    nginx = await startNginx(programs, SITE, new URL(chat.url).host, {
      'proxy_read_timeout    75s': 'proxy_read_timeout 1s',
      'chat_connections 100': 'chat_connections 2',
    });
  });
  after(async () => {
    await nginx?.stop();
    await chat?.stop();
  });

  const stream = async (localAddress: string) => {
    const { key } = await chat.person('alice');
    const body = { message: 'x', cache: false };
    return nginx.send('/api/chat-stream', { method: 'POST', body, localAddress, headers: bearer(key) });
  };

  it('keeps a stream that sends only heartbeats for longer than its timeout', async () => {
    const gate = createGate();
    chat.upstream.respond([script(wait(gate), delta('At last.'), finish(), usage(), done())]);
    const reader = new SseReader(await stream('127.0.0.1'));
    const began = performance.now();
    while (performance.now() < began + 2500) await reader.until('ping');
    gate.open();
    assert.equal((await reader.rest()).at(-1)?.type, 'done');
  });

  it('refuses more connections of one address with 429, and of no other', async () => {
    const gate = createGate();
    const slow = script(wait(gate), delta('x'), finish(), usage(), done());
    chat.upstream.respond([slow, slow]);
    const open = await Promise.all([stream('127.0.0.2'), stream('127.0.0.2')]);
    assert.deepEqual(
      open.map(({ statusCode }) => statusCode),
      [200, 200],
    );
    assert.equal(await statusOf(nginx.send('/health', { localAddress: '127.0.0.2' })), 429);
    assert.equal(await statusOf(nginx.send('/health', { localAddress: '127.0.0.3' })), 200);
    gate.open();
    await Promise.all(open.map((response) => text(response)));
  });
});

describe('nginx in front of a server without authentication', { skip }, () => {
  it('gets no access by its public name', async () => {
    assert(programs);
    const chat = await startChat({ TRUST_PROXY: '1' });
    const nginx = await startNginx(programs, SITE, new URL(chat.url).host);
    try {
      assert.equal(await statusOf(nginx.send('/api/conversations')), 421);
      assert.equal(await statusOf(nginx.send('/api/chat', { method: 'POST', body: { message: 'x' } })), 421);
    } finally {
      await nginx.stop();
      await chat.stop();
    }
  });
});

async function statusOf(sent: Promise<IncomingMessage>): Promise<number> {
  const response = await sent;
  response.resume();
  return response.statusCode ?? 0;
}
