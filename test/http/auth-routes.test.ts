/** Every route with every kind of key. A route that is not in the table, or is only in the table, is a fault. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { makeKey } from '../../src/services/access/api-key-format.ts';
import { type Answer, databases, openAiErrorOf, problemOf, until } from '../support/chat-server.ts';
import {
  bearer,
  bodyOf,
  essence,
  type Person,
  type ProtectedServer,
  startProtected,
  USER,
} from '../support/keys.ts';

/** A request target: of another owner, of no owner, or of the caller. */
interface Target {
  readonly path: string;
  readonly body?: object;
  readonly headers?: Record<string, string>;
}

interface Things {
  readonly chat: ProtectedServer;
  readonly alice: Person;
}

interface Row {
  readonly access: 'open' | 'any' | 'chat' | 'read' | 'export' | 'metrics' | 'admin';
  /** For a caller with access. */
  readonly status: number;
  /** A new object of the owner. */
  hers(things: Things): Promise<Target>;
  /**
   * A request with an unknown id: another owner must get the same response. If missing, the route has no id, and the
   * response of another owner must not contain hers.
   */
  readonly unknown?: Target & { readonly method?: string };
}

const UNKNOWN_ID = crypto.randomUUID();
const completion: Target = {
  path: '/v1/chat/completions',
  body: { messages: [{ role: 'user', content: 'again' }] },
};

function errorOf({ path }: Target, answer: Answer, status: number, code: string): void {
  if (path.startsWith('/v1/')) openAiErrorOf(answer, status, code);
  else problemOf(answer, status, code);
}

const SECRET = 'what-she-said';

const plain = (path: string, body?: object) => async (): Promise<Target> => ({ path, ...(body && { body }) });

async function conversation({ alice }: Things): Promise<string> {
  return bodyOf(await alice.call('POST', '/api/chat', { message: SECRET })).conversation_id;
}

async function stream({ alice }: Things): Promise<string> {
  return bodyOf(await alice.call('POST', '/api/chat', { message: SECRET })).message_id;
}

async function exported({ alice }: Things): Promise<string> {
  const { id } = bodyOf(await alice.call('POST', '/api/exports', { format: 'ndjson' }), 202);
  await until('the export', async () => {
    return bodyOf(await alice.call('GET', `/api/exports/${id}`)).status === 'done';
  });
  return id;
}

async function key({ chat }: Things): Promise<string> {
  return (await chat.person('somebody')).id;
}

/** A row of one thing of hers. @param path around its id */
function thing(
  access: Row['access'],
  status: number,
  make: (things: Things) => Promise<string>,
  path: (id: string) => string,
  body?: object,
): Row {
  const target = (id: string): Target => ({ path: path(id), ...(body && { body }) });
  return { access, status, hers: async (things) => target(await make(things)), unknown: target(UNKNOWN_ID) };
}

const asking = (path: string): Row => ({
  access: 'chat',
  status: 200,
  hers: async (things) => {
    return { path, body: { message: 'again', conversation_id: await conversation(things) } };
  },
  // A new id is valid here; another owner's id gets the same error as a malformed one.
  unknown: { method: 'GET', path: `/api/conversations/${UNKNOWN_ID}` },
});

const TABLE: Readonly<Record<string, Row>> = {
  'GET /': { access: 'open', status: 200, hers: plain('/') },
  'GET /health': { access: 'open', status: 200, hers: plain('/health') },
  'GET /api/health': { access: 'open', status: 200, hers: plain('/api/health') },
  'GET /health/ready': { access: 'open', status: 200, hers: plain('/health/ready') },
  'GET /metrics': { access: 'metrics', status: 200, hers: plain('/metrics') },
  'GET /docs': { access: 'any', status: 200, hers: plain('/docs') },
  'GET /openapi.json': { access: 'any', status: 200, hers: plain('/openapi.json') },
  'POST /api/chat': asking('/api/chat'),
  'POST /api/chat-stream': asking('/api/chat-stream'),
  'GET /api/chat-stream/{id}': thing('chat', 200, stream, (id) => `/api/chat-stream/${id}`),
  'DELETE /api/chat-stream/{id}': thing('chat', 200, stream, (id) => `/api/chat-stream/${id}`),
  'POST /v1/chat/completions': {
    access: 'chat',
    status: 200,
    hers: async (things) => ({ ...completion, headers: { 'x-conversation-id': await conversation(things) } }),
    unknown: { ...completion, headers: { 'x-conversation-id': UNKNOWN_ID } },
  },
  'GET /v1/models': { access: 'chat', status: 200, hers: plain('/v1/models') },
  'GET /v1/models/{id}': { access: 'chat', status: 200, hers: plain('/v1/models/gpt-4o-mini') },
  'GET /api/conversations': { access: 'read', status: 200, hers: plain('/api/conversations?limit=1000') },
  'POST /api/conversations': {
    access: 'chat',
    status: 201,
    hers: plain('/api/conversations', { title: 'Mine' }),
  },
  'PATCH /api/conversations/{id}': thing('chat', 200, conversation, (id) => `/api/conversations/${id}`, {
    title: SECRET,
  }),
  'GET /api/conversations/{id}': thing('read', 200, conversation, (id) => `/api/conversations/${id}`),
  'PUT /api/messages/{id}/feedback': thing('chat', 200, stream, (id) => `/api/messages/${id}/feedback`, {
    rating: 'up',
  }),
  'DELETE /api/messages/{id}/feedback': thing('chat', 200, stream, (id) => `/api/messages/${id}/feedback`),
  'DELETE /api/conversations/{id}': thing('chat', 200, conversation, (id) => `/api/conversations/${id}`),
  'POST /api/conversations/{id}/fork': thing(
    'chat',
    201,
    conversation,
    (id) => `/api/conversations/${id}/fork`,
    {},
  ),
  'GET /api/conversations/{id}/export': thing(
    'export',
    200,
    conversation,
    (id) => `/api/conversations/${id}/export?format=json`,
  ),
  'GET /api/conversations/export-all': {
    access: 'export',
    status: 200,
    hers: plain('/api/conversations/export-all?format=ndjson'),
  },
  'POST /api/exports': { access: 'export', status: 202, hers: plain('/api/exports', { format: 'csv' }) },
  'GET /api/exports': { access: 'export', status: 200, hers: plain('/api/exports?limit=1000') },
  'GET /api/exports/{id}': thing('export', 200, exported, (id) => `/api/exports/${id}`),
  'DELETE /api/exports/{id}': thing('export', 200, exported, (id) => `/api/exports/${id}`),
  'GET /api/exports/{id}/events': thing('export', 200, exported, (id) => `/api/exports/${id}/events`),
  'GET /api/exports/{id}/file': thing('export', 200, exported, (id) => `/api/exports/${id}/file`),
  'GET /api/exports/{id}/manifest': thing('export', 200, exported, (id) => `/api/exports/${id}/manifest`),
  'POST /api/exports/{id}/link': thing('export', 200, exported, (id) => `/api/exports/${id}/link`, {
    expires_in: 60,
  }),
  'POST /api/imports': {
    access: 'admin',
    status: 200,
    hers: async () => ({
      path: '/api/imports',
      body: { summary: { conversations: 0, messages: 0 } },
      headers: { 'content-type': 'application/x-ndjson' },
    }),
  },
  'GET /api/keys': { access: 'admin', status: 200, hers: plain('/api/keys') },
  'POST /api/keys': {
    access: 'admin',
    status: 201,
    hers: plain('/api/keys', { owner: 'new', scopes: ['read'] }),
  },
  'DELETE /api/keys/{id}': thing('admin', 200, key, (id) => `/api/keys/${id}`),
  'POST /api/keys/{id}/rotate': thing('admin', 201, key, (id) => `/api/keys/${id}/rotate`),
};

/** The operations that the server says it has, and what it serves beside them. */
async function operations({ alice }: Things): Promise<string[]> {
  const { paths } = bodyOf(await alice.call('GET', '/openapi.json'));
  const documented = Object.entries(Object(paths)).flatMap(([path, operations]) =>
    Object.keys(Object(operations)).map((method) => `${method.toUpperCase()} ${path}`),
  );
  return ['GET /', 'GET /docs', 'GET /openapi.json', ...documented];
}

for (const place of databases()) {
  describe(`the routes, by key, on ${place.name}`, () => {
    let chat: ProtectedServer;
    let things: Things;
    let alice: Person;
    let bob: Person;
    let bad: Readonly<Record<string, Record<string, string>>>;
    before(async () => {
      chat = await startProtected(place, { SSE_OPEN_MS: '0' });
      alice = await chat.person('alice');
      bob = await chat.person('bob');
      things = { chat, alice };
      const { key: wrong } = makeKey();
      bad = {
        malformed: bearer(wrong.slice(0, -1)),
        'malformed, in X-API-Key': { 'x-api-key': 'ck_' },
        wrong: bearer(wrong),
        'wrong, in X-API-Key': { 'x-api-key': wrong },
        expired: bearer(await chat.expired('alice')),
        revoked: bearer(await chat.revoked('alice')),
        'not the same in both headers': { ...bearer(alice.key), 'x-api-key': bob.key },
        'the same, but one is wrong': { ...bearer(alice.key), 'x-api-key': wrong },
      };
      // The others do not reach the database.
      if (place.name !== 'SQLite')
        bad = { wrong: bearer(wrong), expired: bad.expired ?? {}, revoked: bad.revoked ?? {} };
    });
    after(() => chat.stop());

    /** How much there is of everything that a request could make or take away. */
    const inventory = async () => {
      const tables = ['conversations', 'messages', 'export_jobs', 'idempotency_keys', 'deletions'];
      const counts = tables.map((table) => chat.server.database.knex(table).count('* as count'));
      const keys = await chat.server.database.knex('api_keys').select('id', 'revoked_at').orderBy('id');
      return { counts: await Promise.all(counts), keys, calls: chat.upstream.requests.length };
    };
    const send = (method: string, { path, body, headers: own }: Target, headers: Record<string, string>) =>
      chat.call(method, path, body, { ...own, ...headers });

    it('are exactly those in this table', async () => {
      assert.deepEqual((await operations(things)).sort(), Object.keys(TABLE).sort());
    });

    for (const [name, row] of Object.entries(TABLE)) {
      const [method = ''] = name.split(' ');
      const { access, status } = row;

      it(`${name} is for ${access === 'open' ? 'everyone' : access === 'any' ? 'every key' : `the scope ${access}`}`, async () => {
        const target = await row.hers(things);
        const unscoped = await chat.person(
          'alice',
          access === 'admin' ? USER : USER.filter((one) => one !== access),
        );
        const before = await inventory();

        const stranger = await send(method, target, {});
        const refused: [string, Answer][] = [];
        for (const [kind, headers] of Object.entries(bad))
          refused.push([kind, await send(method, target, headers)]);
        refused.push(['none', stranger]);
        if (access === 'open') {
          for (const [kind, answer] of refused.splice(0)) assert.equal(answer.status, status, kind);
        }
        for (const [kind, answer] of refused) {
          errorOf(target, answer, 401, 'unauthorized');
          assert.deepEqual(essence(answer), essence(refused[0]?.[1] ?? answer), kind);
          assert.equal(answer.headers['www-authenticate'], 'Bearer realm="chat"');
        }
        if (method === 'GET' && access !== 'open') {
          const head = await send('HEAD', target, {});
          assert.deepEqual([head.status, head.text], [401, '']);
        }

        if (access !== 'open' && access !== 'any') {
          const answer = await unscoped.call(method, target.path, target.body, target.headers);
          errorOf(target, answer, 403, 'forbidden');
          assert.match(String(answer.headers['www-authenticate']), new RegExp(`scope="${access}"$`));
        }
        assert.deepEqual(await inventory(), before, 'a rejected request has changed something');
      });

      if (row.unknown && access !== 'admin') {
        const { unknown } = row;
        it(`${name} does not reveal whether another owner has the id`, async () => {
          const target = await row.hers(things);
          const before = await inventory();
          const foreign = await bob.call(method, target.path, target.body, target.headers);
          const none = await bob.call(unknown.method ?? method, unknown.path, unknown.body, unknown.headers);
          assert.equal(foreign.status, 404, foreign.text);
          assert.deepEqual(essence(foreign), essence(none));
          assert.deepEqual(await inventory(), before);
        });
      }

      it(`${name} works for callers with access`, async () => {
        const first = await row.hers(things);
        if (access === 'admin') {
          const other = await chat.person('ops', ['admin']);
          assert.equal((await other.call(method, first.path, first.body, first.headers)).status, status);
        } else {
          const answer = await alice.call(method, first.path, first.body, first.headers);
          assert.equal(answer.status, status, answer.text);
          const scopes = access === 'open' || access === 'any' ? (['read'] as const) : [access];
          const narrow = await chat.person('alice', scopes);
          const again = await row.hers(things);
          assert.equal((await narrow.call(method, again.path, again.body, again.headers)).status, status);
          if (!row.unknown) {
            const mine = await bob.call(method, first.path, first.body, first.headers);
            assert.equal(mine.status, status, mine.text);
            assert(!mine.text.includes(SECRET), 'text of another owner');
          }
        }
        const target = await row.hers(things);
        const { key: root } = chat.root;
        const admin = await send(method, target, { 'x-api-key': root });
        assert.equal(admin.status, status, admin.text);
        const both = await row.hers(things);
        const twice = await send(method, both, { 'x-api-key': root, authorization: `bEARER  ${root}` });
        assert.equal(twice.status, status, twice.text);
      });

      if (row.unknown && access === 'admin') {
        const { unknown } = row;
        it(`${name} is 404 for an unknown id`, async () => {
          problemOf(await chat.root.call(method, unknown.path, unknown.body), 404, 'key_not_found');
        });
      }
    }

    it('show details in /health/ready to admins only', async () => {
      const members = async (headers: Record<string, string>) =>
        Object.keys(bodyOf(await chat.call('GET', '/health/ready', undefined, headers)));
      assert.deepEqual(await members({}), ['status']);
      assert.deepEqual(await members(bearer(alice.key)), ['status']);
      assert.deepEqual(await members(bearer(chat.root.key)), [
        'status',
        'database',
        'upstream',
        'open_circuits',
        'journal',
      ]);
    });

    it('ignore an invalid key where none is required', async () => {
      const invalid = bearer('ck_00000000_00000000000000000000000000000000000000000000');
      for (let n = 0; n < 15; n++) {
        for (const path of ['/health', '/health/ready']) {
          assert.equal((await chat.call('GET', path, undefined, invalid)).status, 200);
        }
      }
      // None of them counts as a failure of this address.
      problemOf(await chat.call('GET', '/api/conversations', undefined, invalid), 401, 'unauthorized');
    });

    it('never log a key, not even an invalid one', () => {
      const said = JSON.stringify(chat.server.lines);
      assert.match(said, /"audit":true/);
      assert.doesNotMatch(said, /ck_[0-9A-Za-z]{8}_/);
      assert.deepEqual(
        chat.server.lines.filter(({ level }) => level === 'error' || level === 'fatal'),
        [],
      );
    });
  });
}
