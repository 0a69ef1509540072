import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import type { Problem } from '../../src/http/response/problem.ts';
import type { ConversationListBody } from '../../src/http/schemas/conversations.ts';
import { until } from '../support/chat-server.ts';
import { sendRaw } from '../support/raw-http.ts';
import { startServer, type TestServer } from '../support/server.ts';

const JSON_TYPE = { 'content-type': 'application/json' };

describe('the HTTP edge', () => {
  let server: TestServer;

  before(async () => {
    server = await startServer();
  });
  after(() => server.stop());

  const problem = async (response: Response, status: number, code: string) => {
    const body = (await response.json()) as Problem;
    assert.deepEqual([response.status, body.code, body.status], [status, code, status], JSON.stringify(body));
    assert.match(response.headers.get('content-type') ?? '', /^application\/problem\+json/);
    assert.equal(body.type, `/problems/${code.replaceAll('_', '-')}`);
    assert.equal(body.request_id, response.headers.get('x-request-id'));
    assert.equal(body.error, body.detail);
    return body;
  };
  const stored = async () =>
    ((await (await server.get('/api/conversations')).json()) as ConversationListBody).conversations.length;
  const send = (body: string | Uint8Array, headers: Record<string, string> = JSON_TYPE) =>
    fetch(`${server.url}/api/chat`, { method: 'POST', headers, body });

  describe('rejects, storing nothing,', () => {
    const message = (value: unknown) => JSON.stringify({ message: value });
    const cases: [what: string, body: string | Uint8Array, code: string, detail: RegExp][] = [
      ['a missing message', '{}', 'validation', /^message: is required$/],
      ['an empty message', message(''), 'validation', /^message: must not be blank$/],
      ['a blank message', message(' \n\t\u3000'), 'validation', /^message: must not be blank$/],
      ...[1, null, true, [], {}, ['x']].map(
        (value) =>
          [`message ${JSON.stringify(value)}`, message(value), 'validation', /^message(?:\.0)?: must /] as [
            string,
            string,
            string,
            RegExp,
          ],
      ),
      ['a message that is too long', message('x'.repeat(32_001)), 'validation', /at most 32000/],
      ['a NUL', message('a\0b'), 'validation', /NUL/],
      ['a lone surrogate', '{"message":"a\\ud800b"}', 'validation', /surrogate/],
      ...['x', '', '1', '0198c0de-7a11-7000-8000-5eed0000000', '__proto__'].map(
        (id) =>
          [
            `conversation_id ${JSON.stringify(id)}`,
            JSON.stringify({ message: 'x', conversation_id: id }),
            'validation',
            /^conversation_id: must be a UUID$/,
          ] as [string, string, string, RegExp],
      ),
      [
        'a conversation_id of another type',
        '{"message":"x","conversation_id":7}',
        'validation',
        /^conversation_id: /,
      ],
      ['an unknown format', '{"message":"x","format":"html"}', 'validation', /^format: /],
      ['a cache that is no boolean', '{"message":"x","cache":"no"}', 'validation', /^cache: /],
      ['a model that is no string', '{"message":"x","model":5}', 'validation', /^model: /],
      ['an array', '[]', 'validation', /object/],
      ['a bare string', '"x"', 'validation', /object/],
      ['null', 'null', 'validation', /object/],
      ['no body', '', 'malformed_json', /position 0$/],
      ['broken JSON', '{"message":"x",}', 'malformed_json', /position 15/],
      ['JSON that ends early', '{"message":"x"', 'malformed_json', /position 14$/],
      [
        '100,000 levels',
        `{"message":"x","y":${'['.repeat(100_000)}${']'.repeat(100_000)}}`,
        'malformed_json',
        /64 levels/,
      ],
      [
        'invalid UTF-8',
        Buffer.from([...Buffer.from('{"message":"'), 0xc3, 0x28, ...Buffer.from('"}')]),
        'malformed_json',
        /UTF-8/,
      ],
      ['UTF-16', Buffer.from('{"message":"x"}', 'utf16le'), 'malformed_json', /position/],
    ];
    for (const [what, body, code, detail] of cases) {
      for (const path of ['/api/chat', '/api/chat-stream']) {
        it(`${what} on ${path}`, async () => {
          const before = await stored();
          const response = await fetch(`${server.url}${path}`, { method: 'POST', headers: JSON_TYPE, body });
          const answer = await problem(response, 400, code);
          assert.match(answer.detail, detail);
          assert.equal(await stored(), before);
        });
      }
    }
  });

  it('is not affected by prototype keys', async () => {
    const response = await send(
      '{"message":"x","__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}',
    );
    assert.equal(response.status, 200);
    assert.equal(({} as Record<string, unknown>).polluted, undefined);
  });

  it('counts the last of members with one name, for checking and for use', async () => {
    await problem(await send('{"message":"good","message":""}'), 400, 'validation');
    assert.equal((await send('{"message":"","message":"good"}')).status, 200);
  });

  it('rejects bodies of other types with 415', async () => {
    for (const type of [
      'text/plain',
      'application/x-www-form-urlencoded',
      'multipart/form-data; boundary=x',
      'application/jsonp',
      'application/json; charset=utf-16',
      'application/json; charset=utf-7',
    ]) {
      await problem(await send('{"message":"x"}', { 'content-type': type }), 415, 'unsupported_media_type');
    }
    await problem(
      await send('{"message":"x"}', { ...JSON_TYPE, 'content-encoding': 'zip' }),
      415,
      'unsupported_media_type',
    );
    const [bare] = await sendRaw(
      server.url,
      'POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n{"message":"x"}',
    );
    assert.equal(bare?.status, 415);
  });

  it('accepts JSON media types in any case, and compressed bodies', async () => {
    const body = '{"message":"x"}';
    for (const type of ['application/json;charset=UTF-8', 'Application/JSON', 'application/problem+json']) {
      assert.equal((await send(body, { 'content-type': type })).status, 200, type);
    }
    for (const [encoding, bytes] of Object.entries({
      gzip: gzipSync(body),
      deflate: deflateSync(body),
      br: brotliCompressSync(body),
    })) {
      assert.equal((await send(bytes, { ...JSON_TYPE, 'content-encoding': encoding })).status, 200, encoding);
    }
  });

  it('answers a body that is too large before it is read, and the sender gets the answer', async () => {
    const huge = 'x'.repeat(3_000_000);
    await problem(await send(huge), 413, 'body_too_large');
    const [early] = await sendRaw(
      server.url,
      'POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n{',
    );
    assert.equal(early?.status, 413);
    const [unasked] = await sendRaw(
      server.url,
      'POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 100000000\r\n\r\n',
    );
    assert.equal(unasked?.status, 413);
    const chunk = `${(70_000).toString(16)}\r\n${'x'.repeat(70_000)}\r\n`;
    const [chunked] = await sendRaw(
      server.url,
      `POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n${chunk.repeat(16)}`,
    );
    assert.equal(chunked?.status, 413);
  });

  it('limits a compressed body by its inflated size, and rejects a damaged one', async () => {
    const headers = { ...JSON_TYPE, 'content-encoding': 'gzip' };
    await problem(await send(gzipSync('x'.repeat(50_000_000)), headers), 413, 'body_too_large');
    for (const encoding of ['gzip', 'x-gzip', 'deflate', 'br']) {
      const damaged = await send('not compressed', { ...JSON_TYPE, 'content-encoding': encoding });
      const { detail } = await problem(damaged, 400, 'malformed_request');
      assert.match(String(detail), /does not match its Content-Encoding/, encoding);
    }
    await problem(await send(gzipSync('{"message":"x"}').subarray(0, 20), headers), 400, 'malformed_request');
  });

  it('answers an unknown path with 404 and a wrong method with 405 and Allow', async () => {
    await problem(await server.get('/api/nothing'), 404, 'not_found');
    await problem(await server.get('/API/chat'), 404, 'not_found');
    const wrong = await server.get('/api/chat');
    assert.equal(wrong.headers.get('allow'), 'POST, OPTIONS');
    await problem(wrong, 405, 'method_not_allowed');
    const all = await fetch(`${server.url}/api/conversations/export-all`, { method: 'DELETE' });
    assert.equal(all.headers.get('allow'), 'GET, HEAD, OPTIONS');
    await problem(all, 405, 'method_not_allowed');
    const options = await fetch(`${server.url}/api/conversations`, { method: 'OPTIONS' });
    assert.deepEqual([options.status, options.headers.get('allow')], [204, 'GET, HEAD, POST, OPTIONS']);
    assert.equal((await fetch(`${server.url}/health`, { method: 'HEAD' })).status, 200);
  });

  it('redirects other spellings of a path with 308, keeping body, query and host', async () => {
    for (const path of ['/api/chat/', '//api/chat', '/api/chat%20', '/api//chat//']) {
      const response = await fetch(`${server.url}${path}?q=1`, {
        method: 'POST',
        headers: JSON_TYPE,
        body: '{"message":"x"}',
        redirect: 'manual',
      });
      assert.deepEqual([response.status, response.headers.get('location')], [308, '/api/chat?q=1'], path);
      const followed = await fetch(`${server.url}${path}`, {
        method: 'POST',
        headers: JSON_TYPE,
        body: '{"message":"x"}',
      });
      assert.equal(followed.status, 200, path);
    }
    const [evil] = await sendRaw(server.url, 'GET //evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n');
    assert.equal(evil?.headers.get('location'), '/evil.example');
  });

  it('rejects dots, encoded slashes, NUL and malformed percent-encoding in a path', async () => {
    for (const path of [
      '/api/../api/chat',
      '/api/%2e%2e/chat',
      '/api%2fchat',
      '/api%5cchat',
      '/api/chat%00',
      '/%ff',
      '/%zz',
      '/api/conversations?x=%zz',
    ]) {
      const [reply] = await sendRaw(server.url, `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
      assert.equal(reply?.status, 400, path);
      assert.equal(JSON.parse(reply?.body ?? '').code, 'malformed_path', path);
    }
  });

  it('answers malformed ids with 400 or 404, never 500', async () => {
    for (const id of [
      '1',
      '1;x',
      '%F0%9F%98%80',
      '__proto__',
      'constructor',
      "'%20or%201=1",
      '0198c0de-7a11-7000-8000-5eed00000001x',
    ]) {
      const response = await server.get(`/api/conversations/${id}`);
      assert.equal(response.status, 400, id);
    }
    await problem(
      await server.get('/api/conversations/0198C0DE-7a11-7000-8000-5eed00000001'),
      404,
      'conversation_not_found',
    );
  });

  it('rejects repeated query parameters, invalid limits and forged cursors', async () => {
    await problem(await server.get('/api/conversations?limit=1&limit=1'), 400, 'validation');
    await problem(await server.get('/health?a=1&a=2'), 400, 'validation');
    for (const limit of ['0', '1001', '-1', '1.5', 'x', '', '1e2', ' 1']) {
      await problem(
        await server.get(`/api/conversations?limit=${encodeURIComponent(limit)}`),
        400,
        'validation',
      );
    }
    for (const cursor of ['x', '', 'bTE', Buffer.from('c1.x').toString('base64url')]) {
      await problem(await server.get(`/api/conversations?cursor=${cursor}`), 400, 'validation');
    }
  });

  it('rejects unknown query parameters where they would select or change something', async () => {
    const id = '0198c0de-7a11-7000-8000-5eed00000001';
    for (const [method, path, name] of [
      ['GET', '/api/conversations?search=pirate', 'search'],
      ['GET', `/api/conversations/${id}?sort=desc`, 'sort'],
      ['DELETE', `/api/conversations/${id}?dry_run=true`, 'dry_run'],
      ['GET', `/api/chat-stream/${id}?lastEventId=${id}:5`, 'lastEventId'],
      ['GET', '/api/conversations?%F0%9F%98%80=1', '😀'],
    ] as const) {
      const response = await fetch(server.url + path, { method });
      const { errors } = await problem(response, 400, 'validation');
      assert.deepEqual(
        errors?.map((error: { path: string }) => error.path),
        [name],
      );
    }
    for (const path of [
      '/health?probe=1',
      '/health/ready?x',
      '/?utm_source=a',
      '/docs?x=1',
      '/openapi.json?v=2',
    ])
      assert.equal((await server.get(path)).status, 200, path);
    assert.equal((await server.post('/api/chat?x=1', { message: 'hi' })).status, 200);
  });

  it('rejects malformed HTTP: two hosts, oversized headers, garbage', async () => {
    const send = async (bytes: string) => (await sendRaw(server.url, bytes))[0];
    assert.equal((await send('GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n'))?.status, 400);
    assert.equal((await send('GET /health HTTP/1.1\r\n\r\n'))?.status, 400);
    assert.equal(
      (await send(`GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${'a'.repeat(17_000)}\r\n\r\n`))?.status,
      431,
    );
    const many = await send(`GET /health HTTP/1.1\r\nHost: localhost\r\n${'X: y\r\n'.repeat(250)}\r\n`);
    assert.equal(many?.status, 431);
    assert.equal(many?.headers.get('connection'), 'close');
    const garbage = await send('NOT HTTP AT ALL\r\n\r\n');
    assert.equal(garbage?.status, 400);
    assert.equal(JSON.parse(garbage?.body ?? '').code, 'malformed_request');
    const smuggled = await send(
      'POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    );
    assert.equal(smuggled?.status, 400);
  });

  it('routes an absolute-form target by its path', async () => {
    const get = async (target: string) =>
      (await sendRaw(server.url, `GET ${target} HTTP/1.1\r\nHost: localhost\r\n\r\n`))[0]?.status;
    assert.equal(await get('http://localhost/health'), 200);
    assert.equal(await get('http://evil.example/health'), 400);
  });

  it('uses a valid request id, and generates one otherwise', async () => {
    const given = await server.get('/health', { 'x-request-id': 'trace.1-A_b' });
    assert.equal(given.headers.get('x-request-id'), 'trace.1-A_b');
    for (const bad of ['a b', 'x'.repeat(129), 'ü']) {
      const response = await server.get('/health', { 'x-request-id': Buffer.from(bad).toString('latin1') });
      assert.match(response.headers.get('x-request-id') ?? '', /^[\da-f-]{36}$/);
    }
  });

  it('writes one access line for a request: no body, no query, the request id', async () => {
    await server.post(
      '/api/chat?token=hunter2',
      { message: 'a very private question' },
      { 'x-request-id': 'one-line' },
    );
    await server.get('/health');
    const lines = server.lines.filter((line) => line.request_id === 'one-line' && line.msg === 'request');
    assert.equal(lines.length, 1);
    const [line] = lines;
    assert.deepEqual([line?.level, line?.model, line?.cache], ['info', 'demo', 'miss']);
    assert.match(String(line?.conversation_id), /^[\da-f-]{36}$/);
    assert.ok(Number(line?.prompt_tokens) > 0 && Number(line?.completion_tokens) > 0);
    const probe = server.lines.find((one) => one.path === '/health' && one.msg === 'request');
    assert.equal(probe?.level, 'debug');
    assert.deepEqual([line?.method, line?.path, line?.status], ['POST', '/api/chat', 200]);
    assert.ok(Number(line?.bytes) > 100 && Number(line?.ms) > 0);
    assert.ok(!JSON.stringify(server.lines).match(/hunter2|private question/));
  });

  it('sends the security headers, HSTS only over TLS', async () => {
    const { headers } = await server.get('/health');
    assert.equal(headers.get('x-content-type-options'), 'nosniff');
    assert.match(headers.get('content-security-policy') ?? '', /default-src 'none'/);
    assert.ok(!(headers.get('content-security-policy') ?? '').includes('upgrade-insecure-requests'));
    assert.equal(headers.get('strict-transport-security'), null);
    assert.equal(headers.get('x-powered-by'), null);
    const proxied = await startServer({ TRUST_PROXY: '1' });
    const secure = await proxied.get('/health', { 'x-forwarded-proto': 'https' });
    assert.match(secure.headers.get('strict-transport-security') ?? '', /max-age=/);
    await proxied.stop();
    const spoofed = await server.get('/health', { 'x-forwarded-proto': 'https' });
    assert.equal(spoofed.headers.get('strict-transport-security'), null);
  });

  it('lets pages read every redirect and error, and asks for no redirect in a preflight', async () => {
    const headers = { origin: 'http://localhost:3000' };
    for (const [path, status] of [
      ['/health/', 308],
      ['/api//conversations', 308],
      ['/api/%zz', 400],
      ['/api/conversations?limit=1&limit=2', 400],
      ['/nothing', 404],
    ] as const) {
      const response = await fetch(server.url + path, { headers, redirect: 'manual' });
      const allowed = response.headers.get('access-control-allow-origin');
      assert.deepEqual([response.status, allowed], [status, headers.origin], path);
    }
    const preflight = { ...headers, 'access-control-request-method': 'POST' };
    const { status } = await fetch(`${server.url}/api/chat/`, { method: 'OPTIONS', headers: preflight });
    assert.equal(status, 204);
  });

  it('allows cross-origin calls from loopback pages only', async () => {
    const preflight = (origin: string) =>
      fetch(`${server.url}/api/chat`, {
        method: 'OPTIONS',
        headers: {
          origin,
          'access-control-request-method': 'POST',
          'access-control-request-headers': 'content-type',
        },
      });
    const allowed = await preflight('http://localhost:3000');
    assert.deepEqual(
      [allowed.status, allowed.headers.get('access-control-allow-origin')],
      [204, 'http://localhost:3000'],
    );
    for (const origin of [
      'https://evil.example',
      'http://localhost.evil.example',
      'http://127.0.0.1.evil.example',
      'null',
    ]) {
      assert.equal((await preflight(origin)).headers.get('access-control-allow-origin'), null, origin);
    }
  });

  it('answers incomplete requests with 408', async () => {
    const slow = await startServer({}, { headersTimeoutMs: 300, requestTimeoutMs: 600 });
    const [headers] = await sendRaw(slow.url, 'GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow');
    assert.equal(headers?.status, 408);
    const [body] = await sendRaw(
      slow.url,
      'POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{',
    );
    assert.equal(body?.status, 408);
    const line = await until('the log line', () =>
      slow.lines.find(({ msg, path }) => msg === 'request' && path === '/api/chat'),
    );
    assert.equal(line.request_id, body?.headers.get('x-request-id'), 'the log has the generated id');
    assert.equal((await slow.get('/health')).status, 200);
    await slow.stop();
  });
});
