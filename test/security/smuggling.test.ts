/** Requests that two programs on the way could read differently, and others that no honest client sends. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { openAiError } from '../../src/http/openai/schemas.ts';
import { type ChatServer, startChat } from '../support/chat-server.ts';
import { type Conversation, converse } from './raw-connection.ts';

const HOST = 'Host: 127.0.0.1\r\n';
const BODY = '{"message":"x"}';
const CHUNKS = `f\r\n${BODY}\r\n0\r\n\r\n`;
/** What an attacker hopes will be taken for a request of its own. */
const HIDDEN = `GET /api/conversations HTTP/1.1\r\n${HOST}\r\n`;

const get = (headers: string, line = 'GET /health HTTP/1.1') => `${line}\r\n${HOST}${headers}\r\n`;
const post = (headers: string, body: string, version = '1.1') =>
  `POST /api/chat HTTP/${version}\r\n${HOST}Content-Type: application/json\r\n${headers}\r\n${body}`;
const length = (value: string) => post(`Content-Length: ${value}\r\n`, BODY);
const encoded = (...values: string[]) =>
  post(values.map((value) => `Transfer-Encoding: ${value}\r\n`).join(''), CHUNKS);
const chunked = (body: string) => post('Transfer-Encoding: chunked\r\n', body);

const SHAPES: Readonly<Record<string, string>> = {
  'two lengths that differ': post('Content-Length: 15\r\nContent-Length: 16\r\n', BODY),
  'two lengths that agree': post('Content-Length: 15\r\nContent-Length: 15\r\n', BODY),
  'a list of lengths': length('15, 15'),
  'a length with a sign': length('+15'),
  'a negative length': length('-1'),
  'a hexadecimal length': length('0xf'),
  'an empty length': length(''),
  'a length with a gap': length('1 5'),
  'a length beyond all numbers': length('99999999999999999999999'),
  'a length and chunks': post('Content-Length: 15\r\nTransfer-Encoding: chunked\r\n', CHUNKS),
  'chunks and a length': post('Transfer-Encoding: chunked\r\nContent-Length: 6\r\n', CHUNKS),
  'the encoding xchunked': encoded('xchunked'),
  'the encoding identity': encoded('identity'),
  'an encoding in quotes': encoded('"chunked"'),
  'an encoding after a vertical tab': encoded('\x0bchunked'),
  'an empty encoding': encoded(''),
  'gzip before chunked': encoded('gzip, chunked'),
  'chunked twice': encoded('chunked, chunked'),
  'chunked not last': encoded('chunked, identity'),
  'two encodings, chunked first': encoded('chunked', 'identity'),
  'two encodings, chunked last': encoded('identity', 'chunked'),
  'chunks in HTTP/1.0': post('Transfer-Encoding: chunked\r\n', CHUNKS, '1.0'),
  'a folded line': get('X-A: b\r\n c\r\n'),
  'a line folded with a tab': get('X-A: b\r\n\tc\r\n'),
  'a folded encoding': post('Transfer-Encoding:\r\n chunked\r\n', CHUNKS),
  'a first line that is folded': `GET /health HTTP/1.1\r\n X-A: b\r\n${HOST}\r\n`,
  'bare line feeds everywhere': 'GET /health HTTP/1.1\nHost: 127.0.0.1\n\n',
  'a bare line feed in a header': get('X-A: b\nX-B: c\r\n'),
  'a bare line feed after the request line': `GET /health HTTP/1.1\n${HOST}\r\n`,
  'a bare line feed as the end of the head': `GET /health HTTP/1.1\r\n${HOST}\n`,
  'a bare carriage return': get('X-A: b\rX-B: c\r\n'),
  'a NUL in a header': get('X-A: b\0c\r\n'),
  'a space before the colon': get('X-A : b\r\n'),
  'a space before the colon of the length': post('Content-Length : 15\r\n', BODY),
  'a space in a name': get('X A: b\r\n'),
  'an empty name': get(': b\r\n'),
  'a line without a colon': get('abc\r\n'),
  'two hosts': get('Host: 127.0.0.1\r\n'),
  'two hosts that differ': get('Host: localhost\r\n'),
  'no host': 'GET /health HTTP/1.1\r\n\r\n',
  'an empty host': 'GET /health HTTP/1.1\r\nHost: \r\n\r\n',
  'a host with a user': 'GET /health HTTP/1.1\r\nHost: 127.0.0.1@evil.example\r\n\r\n',
  'a list of hosts': 'GET /health HTTP/1.1\r\nHost: 127.0.0.1, evil.example\r\n\r\n',
  'a host with a path': 'GET /health HTTP/1.1\r\nHost: 127.0.0.1/evil\r\n\r\n',
  'a target of another host': get('', 'GET http://evil.example/health HTTP/1.1'),
  'a target of another port': get('', 'GET http://127.0.0.1:81/health HTTP/1.1'),
  'a target with a user': get('', 'GET http://evil@127.0.0.1/health HTTP/1.1'),
  'HTTP/0.9': 'GET /health\r\n\r\n',
  'HTTP/0.9 in so many words': get('', 'GET /health HTTP/0.9'),
  'HTTP/1.2': get('', 'GET /health HTTP/1.2'),
  'HTTP/2.0 as text': get('', 'GET /health HTTP/2.0'),
  'the preface of HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'a method in lower case': get('', 'get /health HTTP/1.1'),
  'an unknown method': get('', 'FETCH /health HTTP/1.1'),
  'tabs in the request line': get('', 'GET\t/health\tHTTP/1.1'),
  'a huge chunk extension': chunked(`f;${'a'.repeat(20_000)}\r\n${BODY}\r\n0\r\n\r\n`),
  'a chunk extension that ends in a line feed': chunked(`f;a\n${BODY}\r\n0\r\n\r\n`),
  'a chunk size with 0x': chunked(`0xf\r\n${BODY}\r\n0\r\n\r\n`),
  'a chunk size with a space': chunked(`f \r\n${BODY}\r\n0\r\n\r\n`),
  'a negative chunk size': chunked(`-f\r\n${BODY}\r\n0\r\n\r\n`),
  'a chunk size beyond all numbers': chunked(`fffffffffffffffff\r\n${BODY}\r\n0\r\n\r\n`),
  'a chunk size that ends in a line feed': chunked(`f\n${BODY}\r\n0\r\n\r\n`),
  'a chunk that ends in a line feed': chunked(`f\r\n${BODY}\n0\r\n\r\n`),
  'a chunk that is longer than it says': chunked(`f\r\n${BODY}zz\r\n0\r\n\r\n`),
  'a trailer with a space before the colon': chunked(`f\r\n${BODY}\r\n0\r\nContent-Length : 5\r\n\r\n`),
};

function checkShielded({ headers }: Conversation): void {
  assert.match(headers.get('content-security-policy') ?? '', /default-src 'none'/);
  assert.equal(headers.get('x-content-type-options'), 'nosniff');
  assert.equal(headers.get('x-frame-options'), 'DENY');
  assert.match(headers.get('x-request-id') ?? '', /^[\da-f-]{36}$/);
  assert.deepEqual([headers.get('server'), headers.get('x-powered-by')], [undefined, undefined]);
}

describe('an ambiguous request', () => {
  let chat: ChatServer;

  before(async () => {
    chat = await startChat();
  });
  after(() => chat.stop());

  for (const [what, bytes] of Object.entries(SHAPES)) {
    it(`is 400 and ends its connection, the rest unread: ${what}`, async () => {
      const asked = chat.upstream.requests.length;
      const answer = await converse(chat.url, bytes + HIDDEN);
      assert.deepEqual([answer.statuses, answer.closed], [[400], true]);
      assert.equal(answer.headers.get('connection'), 'close');
      const { code, request_id } = JSON.parse(answer.body);
      assert.deepEqual([code, request_id], ['malformed_request', answer.headers.get('x-request-id')]);
      checkShielded(answer);
      assert.equal(chat.upstream.requests.length, asked, 'the model was asked');
    });
  }

  it('after a valid one keeps that response, and ends the connection', async () => {
    const honest = post('Content-Length: 15\r\n', BODY);
    const answer = await converse(chat.url, `${honest}NO HTTP AT ALL\r\n\r\n${HIDDEN}`);
    assert.deepEqual([answer.statuses, answer.closed], [[200], true]);
    assert.equal(answer.headers.get('connection'), 'close');
  });
});

describe('an unusual but valid request', () => {
  let chat: ChatServer;

  before(async () => {
    chat = await startChat();
  });
  after(() => chat.stop());

  const SERVED: Readonly<Record<string, string>> = {
    'HTTP/1.0 without a host': 'GET /health HTTP/1.0\r\n\r\n',
    'empty lines before it': `\r\n\r\n${get('')}`,
    'a target with the name that Host has too': get('', 'GET http://127.0.0.1/health HTTP/1.1'),
    'an IPv6 host with a port': 'GET /health HTTP/1.1\r\nHost: [::1]:5010\r\n\r\n',
    'chunked in capitals': encoded('CHUNKED'),
    'an unknown expectation': post('Expect: miracles\r\nContent-Length: 15\r\n', BODY),
    'a wish for another protocol': get('Connection: Upgrade\r\nUpgrade: websocket\r\n'),
  };
  for (const [what, bytes] of Object.entries(SERVED)) {
    it(`is served: ${what}`, async () => {
      const answer = await converse(chat.url, bytes, 150);
      assert.deepEqual(answer.statuses, [200], answer.body);
      checkShielded(answer);
    });
  }

  it('is rejected as a tunnel, and the connection ends', async () => {
    const answer = await converse(chat.url, `CONNECT evil.example:443 HTTP/1.1\r\n${HOST}\r\n`);
    assert.deepEqual([answer.statuses, answer.closed], [[405], true]);
    assert.equal(answer.headers.get('allow'), 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS');
    checkShielded(answer);
  });
});

describe('every early error response', () => {
  it('has the path and request id of the request, and the form of OpenAI below /v1', async () => {
    const limits = { headersTimeoutMs: 200, requestTimeoutMs: 400 };
    const chat = await startChat({}, limits);
    const id = 'X-Request-Id: my-id.1\r\n';
    const head = (path: string, headers: string) =>
      `POST ${path} HTTP/1.1\r\n${headers}Content-Length: 15\r\n\r\n`;
    const EARLY = [
      [400, 'malformed_request', HOST + HOST],
      [400, 'malformed_request', ''],
      [408, 'request_timeout', `${HOST}Content-Type: application/json\r\n`],
    ] as const;
    for (const [status, code, headers] of EARLY) {
      const native = await converse(chat.url, head('/api/chat?key=secret', headers + id), 1500);
      assert.deepEqual([native.statuses, native.closed], [[status], true]);
      assert.equal(native.headers.get('x-request-id'), 'my-id.1');
      assert.match(native.headers.get('content-type') ?? '', /^application\/problem\+json/);
      const problem = JSON.parse(native.body);
      assert.deepEqual([problem.code, problem.instance, problem.request_id], [code, '/api/chat', 'my-id.1']);

      const v1 = await converse(chat.url, head('/v1/chat/completions', headers + id), 1500);
      assert.deepEqual([v1.statuses, v1.headers.get('x-request-id')], [[status], 'my-id.1']);
      assert.match(v1.headers.get('content-type') ?? '', /^application\/json/);
      const { error } = openAiError.parse(JSON.parse(v1.body));
      assert.deepEqual([error.code, error.type, error.param], [code, 'invalid_request_error', null]);

      const unnamed = await converse(chat.url, head('/api/chat', `${headers}X-Request-Id: a b\r\n`), 1500);
      checkShielded(unnamed);
    }
    const tunnel = await converse(chat.url, `CONNECT x:1 HTTP/1.1\r\n${HOST}${id}\r\n`);
    assert.deepEqual(
      [JSON.parse(tunnel.body).instance, tunnel.headers.get('x-request-id')],
      ['/', 'my-id.1'],
    );
    await chat.stop();
  });

  it('has the security headers: 408 and 431', async () => {
    const chat = await startChat({}, { headersTimeoutMs: 200, requestTimeoutMs: 400 });
    const late = await converse(chat.url, `GET /health HTTP/1.1\r\n${HOST}X-Slow`, 3000);
    const lateBody = await converse(chat.url, post('Content-Length: 15\r\n', '{'), 3000);
    const large = await converse(chat.url, get(`X: ${'a'.repeat(17_000)}\r\n`), 3000);
    for (const [answer, status] of [
      [late, 408],
      [lateBody, 408],
      [large, 431],
    ] as const) {
      assert.deepEqual([answer.statuses, answer.closed], [[status], true]);
      checkShielded(answer);
    }
    await chat.stop();
  });
});
