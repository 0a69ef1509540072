/** Malformed and hostile keys, `/api/keys`, startup checks and the host allowlist. */
import assert from 'node:assert/strict';
import { after, before, describe, it, type TestContext } from 'node:test';
import { crc32 } from 'node:zlib';
import { makeKey } from '../../src/services/access/api-key-format.ts';
import { StartError } from '../../src/startup/start-error.ts';
import { databases, problemOf, startChat, until } from '../support/chat-server.ts';
import {
  bearer,
  bodyOf,
  essence,
  type Person,
  type ProtectedServer,
  protectedDatabase,
  startProtected,
  USER,
} from '../support/keys.ts';
import { type RawReply, sendRaw } from '../support/raw-http.ts';
import { startServer } from '../support/server.ts';

const [sqlite] = databases();
assert(sqlite);

/** What a reply says, without what tells one request from another. */
function told({ status, headers, body }: RawReply) {
  const { request_id: _id, ...rest } = JSON.parse(body);
  const kept = [...headers].filter(
    ([name]) => !['x-request-id', 'date', 'connection', 'keep-alive'].includes(name),
  );
  return {
    status,
    headers: kept.map(([name, value]) => (name === 'content-length' ? [name] : [name, value])),
    rest,
  };
}

const CHECKED = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

/** The checksum that makes other text a key. */
function withChecksum(text: string): string {
  let rest = crc32(text);
  let digits = '';
  for (let place = 0; place < 6; place += 1) {
    digits = CHECKED.charAt(rest % 62) + digits;
    rest = Math.floor(rest / 62);
  }
  return text + digits;
}

describe('an invalid key', () => {
  let chat: ProtectedServer;
  let good: Person;
  let unauthorized: ReturnType<typeof told>;
  before(async () => {
    chat = await startProtected(sqlite);
    good = await chat.person('alice');
    const [answer] = await sendRaw(chat.url, 'GET /api/conversations HTTP/1.1\r\nHost: a\r\n\r\n');
    assert(answer);
    unauthorized = told(answer);
    assert.equal(unauthorized.status, 401);
  });
  after(() => chat.stop());

  /** The answers to a request with each of these header lines, bytes as they are. */
  const send = (lines: readonly (string | Buffer)[]): Promise<RawReply[]> => {
    const requests = lines.map((line) =>
      Buffer.concat([
        Buffer.from('GET /api/conversations HTTP/1.1\r\nHost: a\r\n'),
        Buffer.from(line),
        Buffer.from('\r\n\r\n'),
      ]),
    );
    return sendRaw(chat.url, Buffer.concat(requests), lines.length);
  };
  const refused = async (lines: readonly (string | Buffer)[]) => {
    const answers = await send(lines);
    assert.equal(answers.length, lines.length);
    for (const [n, answer] of answers.entries())
      assert.deepEqual(told(answer), unauthorized, lines[n]?.toString('latin1').slice(0, 100));
  };

  it('is rejected in the same way at every length to 400 and at others to 10000, in either header', async () => {
    const body = `ck_AbCdEfGh_${'x'.repeat(10_000)}`;
    // Every length that a key or a name could have, and then every 29th: no limit is passed unseen.
    for (let length = 0; length <= 10_000; ) {
      const lines: string[] = [];
      for (; lines.length < 100 && length <= 10_000; length += length < 400 ? 1 : 29) {
        const key = body.slice(0, length);
        lines.push(length % 2 === 0 ? `X-API-Key: ${key}` : `Authorization: Bearer ${key}`);
      }
      await refused(lines);
    }
    for (let length = 0; length <= 200; length += 1) {
      const key = good.key.repeat(3).slice(0, length);
      if (key !== good.key) await refused([`Authorization: Bearer ${key}`, `X-API-Key: ${key}`]);
    }
  });

  it('is rejected whatever it contains: SQL, other alphabets, bytes that are not text', async () => {
    const { key } = good;
    const [shown = '', secret = ''] = [key.slice(0, 11), key.slice(12)];
    const texts: (string | Buffer)[] = [
      "' OR '1'='1",
      "'; DROP TABLE api_keys; --",
      '" OR ""="',
      `${key}' --`,
      `${key}%00`,
      `${key} ${key}`,
      `${key},${key}`,
      `${key}, ${key}`,
      `${key}=`,
      `"${key}"`,
      key.toUpperCase(),
      key.toLowerCase(),
      key.split('').reverse().join(''),
      shown,
      `${shown}_`,
      secret,
      `${shown}_${'A'.repeat(49)}`,
      withChecksum(`${shown}_${'A'.repeat(43)}`),
      withChecksum(key.slice(0, -6).replace(/.$/, (last) => (last === 'A' ? 'B' : 'A'))),
      makeKey().key,
      '你好',
      '😀'.repeat(100),
      'ck_ÀÁÂÃÄÅÆ_é',
      // A Cyrillic "с" at the front looks the same.
      `\u0441${key.slice(1)}`,
      `${key}\u200b`,
      `\ufeff${key}`,
      Buffer.from(Array.from({ length: 128 }, (_, n) => 128 + n)),
      Buffer.concat([Buffer.from(key), Buffer.from([0xff])]),
      Buffer.from([0xc3, 0x28]),
      '__proto__',
      'constructor',
      'null',
      'undefined',
      '[object Object]',
      `$${'{jndi:ldap://127.0.0.1/a}'}`,
      '../../etc/passwd',
    ];
    for (const text of texts) {
      for (const name of ['X-API-Key: ', 'Authorization: Bearer ', 'authorization: bEaReR ']) {
        await refused([Buffer.concat([Buffer.from(name), Buffer.from(text)])]);
      }
    }
    for (const byte of [0, 1, 0x7f, 0x0b]) {
      for (const name of ['X-API-Key: ', 'Authorization: Bearer ']) {
        const [answer] = await send([Buffer.concat([Buffer.from(name + key), Buffer.from([byte])])]);
        assert(answer && [400, 401].includes(answer.status), `byte ${byte}: ${answer?.status}`);
        assert(!answer.body.includes(key));
      }
    }
  });

  it('is rejected if it is repeated, has another scheme, or is in another place', async () => {
    const { key } = good;
    const basic = Buffer.from(`alice:${key}`).toString('base64');
    await refused([
      `Authorization: Bearer ${key}\r\nAuthorization: Bearer ${key}`,
      `X-API-Key: ${key}\r\nx-api-key: ${key}`,
      `Authorization: Bearer ${key}\r\nX-API-Key: ${makeKey().key}`,
      `Authorization: Bearer ${makeKey().key}\r\nX-API-Key: ${key}`,
      `Authorization: Bearer ${key}\r\nX-API-Key:`,
      `Authorization: Bearer\r\nX-API-Key: ${key}`,
      `Authorization:\r\nX-API-Key: ${key}`,
      `Authorization: Basic ${basic}`,
      `Authorization: Token ${key}`,
      `Authorization: ck ${key}`,
      `Authorization: ${key}`,
      `Authorization: Bearer:${key}`,
      `Authorization: Bearer\t${key}`,
      `Proxy-Authorization: Bearer ${key}`,
      `Cookie: key=${key}; authorization=Bearer ${key}; X-API-Key=${key}`,
      `X-Api_Key: ${key}`,
      `ApiKey: ${key}`,
    ]);
    for (const query of [`key=${key}`, `api_key=${key}`, `access_token=${key}`, `X-API-Key=${key}`]) {
      problemOf(await chat.call('GET', `/api/conversations?${query}`), 401, 'unauthorized');
    }
  });

  it('is ignored beside a valid X-API-Key, because other schemes are for proxies', async () => {
    const { key } = good;
    const lines = [
      `Authorization: Basic YTpi\r\nX-API-Key: ${key}`,
      `Authorization: Negotiate abc\r\nX-API-Key: ${key}`,
      `Authorization: Bearer ${key}\r\nX-API-Key: ${key}`,
      `AUTHORIZATION: BEARER    ${key}  `,
      `x-ApI-kEy:   ${key}`,
    ];
    assert.deepEqual(
      (await send(lines)).map(({ status }) => status),
      lines.map(() => 200),
    );
  });

  it('keeps the connection usable, and its body is not read', async () => {
    const headers = { ...bearer(makeKey().key), 'content-type': 'application/json' };
    for (const body of ['{', 'x'.repeat(500_000), '{"message":"x"}']) {
      const answer = await chat.call('POST', '/api/chat', body, headers);
      problemOf(answer, 401, 'unauthorized');
    }
    assert.equal(chat.upstream.requests.length, 0);
  });

  it('cannot be the id of a key', async () => {
    const { key } = makeKey();
    for (const holder of [chat, chat.root]) {
      const answer = await holder.call('DELETE', `/api/keys/${key}`);
      assert([400, 401].includes(answer.status), answer.text);
    }
    assert(chat.server.lines.some(({ path }) => path === '/api/keys/[redacted]'));
  });

  it('is in no log line, and the log has no error', () => {
    const said = JSON.stringify(chat.server.lines);
    assert.doesNotMatch(said, /ck_[0-9A-Za-z]{8}_|DROP TABLE|jndi|OR '1'|x{50}/);
    for (const { level, status, msg } of chat.server.lines) {
      assert(level !== 'error' && level !== 'fatal' && !(Number(status) >= 500), String(msg));
    }
  });
});

for (const place of databases()) {
  describe(`/api/keys, on ${place.name},`, () => {
    const shift = { ms: 0 };
    let chat: ProtectedServer;
    before(async () => {
      chat = await startProtected(place, {}, { clock: { now: () => Date.now() + shift.ms } });
    });
    after(() => chat.stop());
    const create = async (body: object) => bodyOf(await chat.root.call('POST', '/api/keys', body), 201);
    const list = async () => bodyOf(await chat.root.call('GET', '/api/keys')).keys;
    const works = async (key: string, path = '/api/conversations') =>
      (await chat.call('GET', path, undefined, bearer(key))).status;

    it('creates a working key, shows it once, and lists it without its secret', async () => {
      const expires_at = new Date(Date.now() + 3_600_000).toISOString();
      const made = await create({ owner: '团队 blue', scopes: ['read', 'chat', 'read'], expires_at });
      const { key, ...shown } = made;
      assert.match(key, /^ck_[0-9A-Za-z]{8}_[0-9A-Za-z]{49}$/);
      const { id, created_at, ...rest } = shown;
      assert.deepEqual(rest, {
        prefix: key.slice(0, 11),
        owner: '团队 blue',
        scopes: ['chat', 'read'],
        requests: null,
        streams: null,
        expires_at,
        last_used_at: null,
        revoked_at: null,
      });
      assert(Math.abs(Date.parse(created_at) - Date.now()) < 10_000);
      assert.deepEqual((await list())[0], shown);
      const { text } = await chat.root.call('GET', '/api/keys');
      assert(!text.includes(key) && !text.includes(key.slice(12)));
      assert.doesNotMatch(text, /hash|[\da-f]{64}/);

      assert.equal(await works(key), 200);
      const used = await until('its use', async () => {
        return (await list()).find((one: { id: string }) => one.id === id)?.last_used_at;
      });
      assert(Math.abs(Date.parse(used) - Date.now()) < 60_000, used);
    });

    it('rejects invalid owners, scopes and times, and names them', async () => {
      const before = await list();
      const fine = { owner: 'fine', scopes: ['read'] };
      for (const [body, path] of [
        ...[
          '',
          ' ',
          ' a',
          'a ',
          'a\nb',
          'a\u0000b',
          '\u001b[2J',
          'a\u202eb',
          'a\u200bb',
          '\ud800',
          'x'.repeat(256),
        ].map((owner) => [{ ...fine, owner }, 'owner'] as const),
        ...[5, null, ['a'], undefined].map((owner) => [{ ...fine, owner }, 'owner'] as const),
        ...[[], 'chat', null, undefined, {}].map((scopes) => [{ ...fine, scopes }, 'scopes'] as const),
        [{ ...fine, scopes: ['root'] }, 'scopes.0'],
        [{ ...fine, scopes: ['chat', 'Chat'] }, 'scopes.1'],
        [{ ...fine, scopes: ['chat', '__proto__'] }, 'scopes.1'],
        [{ ...fine, scopes: ['chat,admin'] }, 'scopes.0'],
        [{ ...fine, scopes: [['admin']] }, 'scopes.0'],
        ...[
          new Date(Date.now() - 1000).toISOString(),
          '2000-01-01T00:00:00Z',
          '2999-01-01',
          '2999-01-01T00:00:00',
          '2999-02-30T00:00:00Z',
          'tomorrow',
          '',
          4_102_444_800_000,
          {},
        ].map((expires_at) => [{ ...fine, expires_at }, 'expires_at'] as const),
        [[], ''],
        [null, ''],
      ] as const) {
        const { errors } = problemOf(await chat.root.call('POST', '/api/keys', body), 400, 'validation');
        assert.deepEqual([...new Set(errors?.map((error) => error.path))], [path], JSON.stringify(body));
      }
      assert.deepEqual(await list(), before);
    });

    it('revokes immediately; a second time changes nothing', async () => {
      const { key, id } = await create({ owner: 'short', scopes: [...USER] });
      assert.equal(await works(key), 200);
      const first = bodyOf(await chat.root.call('DELETE', `/api/keys/${id}`));
      assert.equal(await works(key), 401);
      assert(Math.abs(Date.parse(first.revoked_at) - Date.now()) < 10_000);
      const again = bodyOf(await chat.root.call('DELETE', `/api/keys/${id.toUpperCase()}`));
      assert.equal(again.revoked_at, first.revoked_at);
      problemOf(await chat.root.call('POST', `/api/keys/${id}/rotate`), 404, 'key_not_found');
    });

    it('rotates: the new key replaces the old one, which is invalid', async () => {
      const { key, id, owner, scopes } = await create({ owner: 'turning', scopes: ['chat', 'read'] });
      const own = await chat.call('POST', '/api/chat', { message: 'before' }, bearer(key));
      const conversation = bodyOf(own).conversation_id;
      const next = bodyOf(await chat.root.call('POST', `/api/keys/${id}/rotate`), 201);
      assert.notEqual(next.key, key);
      assert.notEqual(next.id, id);
      assert.deepEqual([next.owner, next.scopes, next.expires_at], [owner, scopes, null]);
      assert.equal(await works(key), 401);
      assert.equal(await works(next.key, `/api/conversations/${conversation}`), 200);
      problemOf(await chat.root.call('POST', `/api/keys/${id}/rotate`), 404, 'key_not_found');
    });

    it('is 404 for an unknown id, and 400 for a malformed one', async () => {
      for (const [method, tail] of [
        ['DELETE', ''],
        ['POST', '/rotate'],
      ] as const) {
        const none = await chat.root.call(method, `/api/keys/${crypto.randomUUID()}${tail}`);
        problemOf(none, 404, 'key_not_found');
        for (const id of ['none', '1', "'%20OR%201=1", `${crypto.randomUUID()}0`, '%F0%9F%98%80'])
          problemOf(await chat.root.call(method, `/api/keys/${id}${tail}`), 400, 'validation');
      }
    });

    it('lets an admin revoke their own key, which is then invalid', async () => {
      const self = await chat.person('ops', ['admin']);
      bodyOf(await self.call('DELETE', `/api/keys/${self.id}`));
      problemOf(await self.call('GET', '/api/keys'), 401, 'unauthorized');
      problemOf(await self.call('DELETE', `/api/keys/${self.id}`), 401, 'unauthorized');
    });

    it('creates keys that expire', async (t) => {
      t.after(() => {
        shift.ms = 0;
      });
      const expires_at = new Date(Date.now() + 60_000).toISOString();
      const { key, id } = await create({ owner: 'brief', scopes: ['read'], expires_at });
      assert.equal(await works(key), 200);
      shift.ms = 61_000;
      assert.equal(await works(key), 401);
      problemOf(await chat.root.call('POST', `/api/keys/${id}/rotate`), 404, 'key_not_found');
    });

    it('logs each use of an admin or export route with the caller and without the key', async () => {
      const careful = await chat.person('careful');
      const id = bodyOf(await careful.call('POST', '/api/exports', {}), 202).id;
      const conversation = bodyOf(await careful.call('POST', '/api/chat', { message: 'x' })).conversation_id;
      const seen = chat.server.lines.length;
      const asked = [
        ['GET', '/api/conversations/export-all?format=csv', 200],
        ['GET', `/api/conversations/${conversation}/export?format=csv`, 200],
        ['GET', `/api/exports/${id}`, 200],
        ['GET', '/api/exports', 200],
        ['GET', '/api/keys', 403],
        ['POST', `/api/keys/${careful.id}/rotate`, 403],
        ['DELETE', `/api/exports/${crypto.randomUUID()}`, 404],
      ] as const;
      for (const [method, path, status] of asked)
        assert.equal((await careful.call(method, path)).status, status);
      // Of these there is the access line only.
      await careful.call('GET', '/api/conversations');
      await careful.call('GET', '/openapi.json');
      const notes = await until('the last note', () => {
        const lines = chat.server.lines.slice(seen);
        return (
          lines.filter(({ path }) => path === '/openapi.json').length > 0 &&
          lines.filter(({ audit }) => audit)
        );
      });
      const prefix = careful.key.slice(0, 11);
      assert.deepEqual(
        notes.map(({ method, path, status, key_id, key_prefix, owner }) => [
          method,
          path,
          status,
          key_id,
          key_prefix,
          owner,
        ]),
        asked.map(([method, path, status]) => [
          method,
          path.split('?')[0],
          status,
          careful.id,
          prefix,
          'careful',
        ]),
      );
      for (const { request_id } of notes) assert.match(String(request_id), /^[\w-]{36}$/);
      const said = JSON.stringify(chat.server.lines);
      assert(!said.includes(careful.key) && !said.includes(careful.key.slice(12)));
      assert.doesNotMatch(said, /ck_[0-9A-Za-z]{8}_/);
    });
  });
}

describe('a key that another server revoked', () => {
  it('is rejected soon', async (t) => {
    const place = databases().at(-1);
    assert(place);
    const where = await protectedDatabase(place);
    const [a, b] = [await where.start(), await where.start()];
    t.after(async () => {
      await a.stop();
      await b.stop();
      await where.remove();
    });
    const alice = await a.person('alice');
    const there = b.as(alice);
    bodyOf(await there.call('GET', '/api/conversations'));
    bodyOf(await a.root.call('DELETE', `/api/keys/${alice.id}`));
    const since = performance.now();
    await until('the refusal', async () => (await there.call('GET', '/api/conversations')).status === 401);
    // Within two seconds; a server that keeps what it knows of a key without looking again never rejects it.
    assert(performance.now() - since < 10_000, `${performance.now() - since} ms`);
  });
});

describe('AUTH=off', () => {
  it('creates and shows no keys, for any caller', async (t) => {
    const chat = await startChat();
    t.after(() => chat.stop());
    const id = crypto.randomUUID();
    for (const [method, path, body] of [
      ['GET', '/api/keys'],
      ['POST', '/api/keys', { owner: 'me', scopes: ['admin'] }],
      ['DELETE', `/api/keys/${id}`],
      ['POST', `/api/keys/${id}/rotate`],
    ] as const) {
      for (const headers of [{}, bearer(makeKey().key)]) {
        const { detail } = problemOf(await chat.call(method, path, body, headers), 403, 'forbidden');
        assert.match(detail, /npm run keys/);
      }
    }
    assert.deepEqual(await chat.server.database.apiKeys.list(), []);
    assert.equal((await chat.call('GET', '/api/conversations', undefined, bearer('whatever'))).status, 200);
  });
});

describe('a server with authentication', () => {
  const refuses = async (t: TestContext, env: Record<string, string>, wanted: RegExp) => {
    const starting = startServer(env);
    starting.then(
      (server) => t.after(() => server.stop()),
      () => {},
    );
    await assert.rejects(starting, (error) => {
      assert(error instanceof StartError, String(error));
      assert.match(error.message, wanted);
      assert.match(error.message, /npm run keys -- create/);
      return true;
    });
  };

  it('does not start without a key, and says what to do', async (t) => {
    await refuses(t, { AUTH: 'required' }, /^API keys are required, but none is usable/);
    await refuses(t, { HOST: '0.0.0.0' }, /HOST 0\.0\.0\.0, which others can reach/);
    await refuses(t, { HOST: '0.0.0.0', AUTH: 'required' }, /HOST 0\.0\.0\.0/);
    await refuses(t, { HOST: '::' }, /HOST ::/);
  });

  it('does not start with only expired or revoked keys, and starts with a valid one, on any HOST', async (t) => {
    const where = await protectedDatabase(sqlite);
    t.after(() => where.remove());
    const first = await where.start();
    await first.expired('somebody');
    bodyOf(await first.root.call('DELETE', `/api/keys/${first.root.id}`));
    await first.stop();
    await refuses(t, { ...where.env }, /none is usable/);

    const open = await where.start({ AUTH: 'off', HOST: '0.0.0.0' });
    const { key } = await open.person('alice');
    await open.stop();
    for (const HOST of ['127.0.0.1', '0.0.0.0']) {
      const { AUTH: _auth, ...unsaid } = where.env;
      const env = { ...unsaid, HOST, ...(HOST === '127.0.0.1' && { AUTH: 'required' }) };
      const server = await startServer(env);
      try {
        const url = server.url.replace('0.0.0.0', '127.0.0.1');
        assert.equal((await fetch(`${url}/api/conversations`)).status, 401);
        assert.equal((await fetch(`${url}/api/conversations`, { headers: bearer(key) })).status, 200);
      } finally {
        await server.stop();
      }
    }
  });

  it('cannot verify a key while the database is unavailable: 503, and open routes stay open', async (t) => {
    const chat = await startChat({
      AUTH: 'required',
      DATABASE_URL: 'mysql://nobody@127.0.0.1:1/nothing',
      DB_ACQUIRE_TIMEOUT_MS: '300',
    });
    t.after(() => chat.stop());
    const shown = bearer(makeKey().key);
    const answer = await chat.call('GET', '/api/conversations', undefined, shown);
    problemOf(answer, 503, 'database_unavailable');
    assert.match(String(answer.headers['retry-after']), /^\d+$/);
    problemOf(await chat.call('GET', '/api/conversations', undefined, bearer('ck_')), 401, 'unauthorized');
    problemOf(await chat.call('GET', '/api/conversations'), 401, 'unauthorized');
    for (const headers of [{}, shown]) {
      for (const path of ['/', '/health', '/api/health']) {
        assert.equal((await chat.call('GET', path, undefined, headers)).status, 200, path);
      }
      const ready = await chat.call('GET', '/health/ready', undefined, headers);
      assert.deepEqual(JSON.parse(ready.text), { status: 'not_ready' });
      assert.equal(ready.status, 503);
    }
  });
});

describe('an open route', () => {
  it('looks no key up in the database, except to say more to an admin', async (t) => {
    const chat = await startProtected(sqlite);
    t.after(() => chat.stop());
    const { mock } = t.mock.method(chat.server.database.apiKeys, 'findByHash');
    for (const path of ['/', '/health', '/api/health']) {
      for (const { key } of [chat.root, makeKey()]) {
        assert.equal((await chat.call('GET', path, undefined, bearer(key))).status, 200, path);
      }
    }
    assert.equal(mock.callCount(), 0);
    assert.equal(bodyOf(await chat.root.call('GET', '/health/ready')).database, 'up');
    assert.equal(mock.callCount(), 1);
  });
});

describe('the name in the Host header', () => {
  const ask = async (url: string, host: string | undefined, path = '/api/conversations', version = '1.1') => {
    const line = host === undefined ? '' : `Host: ${host}\r\n`;
    const [answer] = await sendRaw(url, `GET ${path} HTTP/${version}\r\n${line}Connection: close\r\n\r\n`);
    assert(answer);
    return answer;
  };
  const GOOD = [
    'localhost',
    'LOCALHOST:5010',
    '127.0.0.1',
    '127.0.0.1:1',
    '127.255.0.9:65535',
    '[::1]',
    '[::1]:5010',
  ];
  const BAD = [
    'evil.example',
    'evil.example:5010',
    'localhost.evil.example',
    'evil.example.localhost.example',
    'localhost@evil.example',
    '127.0.0.1.evil.example',
    '127.0.0.1:80:80',
    'localhost:123456',
    '10.0.0.1',
    '192.168.0.1:5010',
    '0.0.0.0',
    '[::]',
    '[fe80::1]:5010',
    '::1',
    '127.1',
    '2130706433',
    '0x7f.0.0.1',
    '',
    ':5010',
    'localhost,evil.example',
    '例え.jp',
  ];

  it('must be a loopback name without authentication', async (t) => {
    const chat = await startChat();
    t.after(() => chat.stop());
    for (const host of GOOD) assert.equal((await ask(chat.url, host)).status, 200, host);
    for (const host of BAD) {
      for (const path of [
        '/',
        '/health',
        '/api/conversations',
        '/openapi.json',
        '/assets/home.js',
        '/nowhere',
      ]) {
        const { status, body } = await ask(chat.url, host, path);
        // 400: it is no name at all.
        assert(
          status === 421 || (status === 400 && !/^[\w.]+(?::5010)?$/.test(host)),
          `${host} ${path}: ${status}`,
        );
        assert.match(JSON.parse(body).code, /^(?:misdirected_request|malformed_request)$/);
      }
    }
    const body = '{"message":"from a page of a stranger"}';
    const [posted] = await sendRaw(
      chat.url,
      `POST /api/chat HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    assert.equal(posted?.status, 421);
    const [preflight] = await sendRaw(
      chat.url,
      'OPTIONS /api/chat HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n',
    );
    assert.equal(preflight?.status, 421);
    assert.equal(preflight?.headers.get('access-control-allow-origin'), undefined);
    assert.deepEqual([chat.upstream.requests.length, (await chat.countRows()).conversations], [0, 0]);
    // No browser sends these.
    assert.equal((await ask(chat.url, undefined, '/health', '1.0')).status, 200);
    assert.equal((await ask(chat.url, 'evil.example', '/health', '1.0')).status, 421);
    assert.equal((await ask(chat.url, undefined, '/health')).status, 400);
    assert.equal((await ask(chat.url, 'localhost\r\nHost: evil.example', '/health')).status, 400);
    assert.equal((await ask(chat.url, 'evil.example', 'http://localhost/health')).status, 400);
  });

  it('may be one of ALLOWED_HOSTS, which also applies with authentication', async (t) => {
    const allowed = { ALLOWED_HOSTS: 'chat.example, other.example' };
    const off = await startChat(allowed);
    const closed = await startProtected(sqlite, allowed);
    t.after(() => Promise.all([off.stop(), closed.stop()]));
    for (const { url } of [off, closed]) {
      for (const host of ['chat.example', 'CHAT.example:5010', 'other.example', ...GOOD])
        assert.equal((await ask(url, host, '/health')).status, 200, host);
      for (const host of [
        'sub.chat.example',
        'chat.example.evil.example',
        'achat.example',
        'chat.example.',
        ...BAD,
      ])
        assert((await ask(url, host, '/health')).status >= 400, host);
    }
  });

  it('is not checked with authentication and without ALLOWED_HOSTS', async (t) => {
    const chat = await startProtected(sqlite);
    t.after(() => chat.stop());
    assert.equal((await ask(chat.url, 'evil.example', '/health')).status, 200);
    const answer = await ask(chat.url, 'evil.example');
    assert.deepEqual([answer.status, JSON.parse(answer.body).code], [401, 'unauthorized']);
    const foreign = await chat.call('GET', '/api/keys', undefined, { host: 'evil.example' });
    assert.deepEqual(essence(foreign).body.code, 'unauthorized');
  });
});
