import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { after, before, describe, it } from 'node:test';
import mysql from 'mysql2/promise';
import { z } from 'zod';
import { type ChatServer, problemOf, startChat, until } from '../support/chat-server.ts';
import { serverUrls } from '../support/databases.ts';
import { findMariadbd, type Mariadb, startMariadb } from '../support/mariadb.ts';
import { startServer } from '../support/server.ts';

const readiness = (chat: Pick<ChatServer, 'call'>) => chat.call('GET', '/health/ready');
const parsed = async (answer: Promise<{ status: number; text: string }>) => {
  const { status, text } = await answer;
  return [status, JSON.parse(text)];
};

const journal = { turns: 0, bytes: 0, oldest: null };

describe('health', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat();
  });
  after(() => chat.stop());

  it('reports liveness at two paths', async () => {
    for (const path of ['/health', '/api/health']) {
      const body = { status: 'ok', version: '0.0.0-test' };
      assert.deepEqual(await parsed(chat.call('GET', path)), [200, body]);
      const head = await chat.call('HEAD', path);
      assert.deepEqual([head.status, head.text], [200, '']);
    }
  });

  it('is ready while the database responds, and reports the demo model', async (t) => {
    const up = { status: 'ready', database: 'up', upstream: 'up', open_circuits: [], journal };
    assert.deepEqual(await parsed(readiness(chat)), [200, up]);
    const demo = await startServer();
    t.after(() => demo.stop());
    const answer = await demo.get('/health/ready');
    assert.deepEqual([answer.status, await answer.json()], [200, { ...up, upstream: 'demo' }]);
  });

  it('shares one check of the database among all requests of a second', async (t) => {
    const other = await startChat();
    t.after(() => other.stop());
    let queries = 0;
    other.server.database.knex.on('query', ({ sql }: { sql: string }) => {
      if (sql.includes('migrations')) queries += 1;
    });
    for (let round = 0; round < 5; round++) {
      const answers = await Promise.all(Array.from({ length: 20 }, () => readiness(other)));
      assert.ok(answers.every(({ status }) => status === 200));
    }
    // A check has one query or two; without the sharing there would be a hundred of them.
    assert.ok(queries < 50, `${queries} queries`);
  });

  it('checks the model server at most every few seconds', async () => {
    const before = chat.upstream.modelRequests;
    for (let n = 0; n < 10; n += 1) await readiness(chat);
    assert(chat.upstream.modelRequests - before <= 1);
  });

  it('reports a model server that is down, rejects or hangs, and stays ready', async (t) => {
    const faults: ((response: ServerResponse) => void)[] = [
      (response) => response.destroy(),
      (response) => response.writeHead(500).end(),
      () => {},
    ];
    for (const fault of faults) {
      const other = await startChat();
      t.after(() => other.stop());
      other.upstream.respondModels(fault);
      const began = performance.now();
      const down = { status: 'ready', database: 'up', upstream: 'down', open_circuits: [], journal };
      assert.deepEqual(await parsed(readiness(other)), [200, down]);
      // It waits for half a second; for a reply it would be a minute.
      assert(performance.now() - began < 10_000, 'a probe would have given up');
    }
    const refused = await startChat();
    t.after(() => refused.stop());
    refused.upstream.respondModels((response) => response.writeHead(401).end());
    assert.equal(JSON.parse((await readiness(refused)).text).upstream, 'refused');
  });

  it('is alive and not ready when the database has gone', async (t) => {
    const other = await startChat();
    t.after(() => other.stop());
    await other.server.database.knex.destroy();
    assert.equal((await other.call('GET', '/health')).status, 200);
    const down = { status: 'not_ready', database: 'down', upstream: 'up', open_circuits: [], journal };
    assert.deepEqual(await parsed(readiness(other)), [503, down]);
  });
});

if (serverUrls().length > 0 && findMariadbd()) {
  describe('a server whose MySQL comes late', () => {
    let mariadb: Mariadb;
    let chat: ChatServer;
    let early = '';
    before(async () => {
      mariadb = await startMariadb();
      const connection = await mysql.createConnection({ uri: mariadb.url });
      await connection.query('CREATE DATABASE late');
      await connection.end();
      await mariadb.kill();
      chat = await startChat({
        DATABASE_URL: `${mariadb.url}/late`,
        DB_AUTO_MIGRATE: 'on',
        DB_ACQUIRE_TIMEOUT_MS: '1000',
      });
    });
    after(async () => {
      await chat.stop();
      await mariadb.stop();
    });

    it('starts, lives, is not ready, and answers what needs the database with 503', async () => {
      assert.equal((await chat.call('GET', '/health')).status, 200);
      const [status, body] = await parsed(readiness(chat));
      assert.deepEqual([status, body.status, body.database], [503, 'not_ready', 'down']);
      const id = crypto.randomUUID();
      for (const [method, path, sent] of [
        ['POST', '/api/chat', { message: 'x', conversation_id: id }],
        ['POST', '/api/chat-stream', { message: 'x', conversation_id: id }],
        ['GET', `/api/chat-stream/${id}`, undefined],
        ['DELETE', `/api/chat-stream/${id}`, undefined],
        ['GET', '/api/conversations', undefined],
        ['GET', `/api/conversations/${id}`, undefined],
        ['DELETE', `/api/conversations/${id}`, undefined],
      ] as const) {
        const answer = await chat.call(method, path, sent);
        problemOf(answer, 503, 'database_unavailable');
        assert.equal(answer.headers['retry-after'], '2');
        assert.doesNotMatch(answer.text, /ECONN|127\.0\.0\.1|mysql|knex/i);
      }
    });

    it('answers what needs no stored history, and says where the turn is', async () => {
      const { response, persisted, conversation_id: id } = await chat.ask({ message: 'early' });
      assert.deepEqual([response, persisted], ['echo: early', false]);
      early = id;
      const { journal: waiting } = JSON.parse((await readiness(chat)).text);
      assert.equal(waiting.turns, 1);
      assert(waiting.bytes > 0 && Date.parse(waiting.oldest) <= Date.now());
    });

    it('migrates, replays and is ready by itself when it comes', async () => {
      await mariadb.start();
      await until('ready', async () => (await readiness(chat)).status === 200);
      await until('the replay', async () => JSON.parse((await readiness(chat)).text).journal.turns === 0);
      assert.deepEqual(
        (await chat.read(early)).messages.map(({ content }) => content),
        ['early', 'echo: early'],
      );
      const { conversation_id: id, persisted } = await chat.ask({ message: 'at last 😀' });
      assert.equal(persisted, true);
      assert.equal((await chat.read(id)).messages[0]?.content, 'at last 😀');
    });
  });
}

const operation = z.looseObject({ summary: z.string(), responses: z.record(z.string(), z.unknown()) });
const document = z.looseObject({
  openapi: z.string(),
  paths: z.record(z.string(), z.record(z.string(), operation)),
  components: z.object({ schemas: z.record(z.string(), z.unknown()) }),
});

describe('GET /openapi.json', () => {
  let chat: ChatServer;
  before(async () => {
    chat = await startChat();
  });
  after(() => chat.stop());
  const read = async () => {
    const { text } = await chat.call('GET', '/openapi.json');
    return { text, ...document.parse(JSON.parse(text)) };
  };

  it('has every operation of the API with the statuses it can end in', async () => {
    const { openapi, paths } = await read();
    assert.match(openapi, /^3\.1\./);
    const found = Object.entries(paths).flatMap(([path, operations]) =>
      Object.entries(operations).map(([method, { responses }]) => [
        `${method.toUpperCase()} ${path}`,
        Object.keys(responses)
          .filter((status) => status !== 'default')
          .join(' '),
      ]),
    );
    for (const operations of Object.values(paths)) {
      for (const { responses } of Object.values(operations)) assert.ok('default' in responses);
    }
    const posts = '200 400 404 409 413 415 422 502 503 504';
    const guarded = (statuses: string) => [...statuses.split(' '), '401', '403', '429'].sort().join(' ');
    assert.deepEqual(Object.fromEntries(found), {
      'POST /api/chat': guarded(posts),
      'POST /api/chat-stream': guarded(posts),
      'GET /api/chat-stream/{id}': guarded('200 204 400 404 503'),
      'DELETE /api/chat-stream/{id}': guarded('200 400 404 503'),
      'GET /api/conversations/export-all': guarded('200 400 503'),
      'GET /api/conversations/{id}/export': guarded('200 400 404 503'),
      'GET /api/conversations': guarded('200 400 503'),
      'GET /api/conversations/{id}': guarded('200 400 404 503'),
      'DELETE /api/conversations/{id}': guarded('200 400 404 503'),
      'POST /api/exports': guarded('202 400 413 415 503'),
      'GET /api/exports': guarded('200 400 503'),
      'GET /api/exports/{id}': guarded('200 400 404 503'),
      'DELETE /api/exports/{id}': guarded('200 400 404 503'),
      'GET /api/exports/{id}/events': guarded('200 204 400 404 503'),
      'GET /api/exports/{id}/file': guarded('200 206 304 400 404 409 412 416 503'),
      'POST /api/exports/{id}/link': guarded('200 400 404 409 413 415 503'),
      'GET /api/exports/{id}/manifest': guarded('200 400 404 409 503'),
      'GET /api/keys': guarded('200 503'),
      'POST /api/keys': guarded('201 400 413 415 503'),
      'DELETE /api/keys/{id}': guarded('200 400 404 503'),
      'POST /api/keys/{id}/rotate': guarded('201 400 404 503'),
      'GET /health': '200',
      'GET /api/health': '200',
      'GET /health/ready': '200 503',
      'GET /metrics': '200 401 403 429',
      'POST /api/conversations': guarded('201 400 413 415 503'),
      'PATCH /api/conversations/{id}': guarded('200 400 404 413 415 503'),
      'POST /api/conversations/{id}/fork': guarded('201 400 404 409 413 415 503'),
      'PUT /api/messages/{id}/feedback': guarded('200 400 404 413 415 503'),
      'DELETE /api/messages/{id}/feedback': guarded('200 400 404 503'),
      'POST /api/imports': guarded('200 400 413 415 503'),
      'POST /v1/chat/completions': guarded('200 400 404 413 415 422 502 503 504'),
      'GET /v1/models': guarded('200'),
      'GET /v1/models/{id}': guarded('200 404'),
    });
    assert.deepEqual(
      found.map(([name]) => name),
      JSON.parse((await chat.call('GET', '/')).text).endpoints.map(
        ({ method, path }: { method: string; path: string }) => `${method} ${path}`,
      ),
    );
  });

  it('has every schema that it refers to, and no unused one', async () => {
    const { text, components } = await read();
    const referred = [...text.matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)].map(([, name]) => name);
    assert.deepEqual([...new Set(referred)].sort(), Object.keys(components.schemas).sort());
    assert.equal(referred.length, text.match(/"\$ref"/g)?.length);
  });

  it('describes the members of each response, and requires those that are always there', async () => {
    const { components } = await read();
    const { conversation_id: id, ...reply } = await chat.ask({ message: 'x', unknown: 1 });
    const missing = await chat.call('GET', `/api/conversations/${crypto.randomUUID()}`);
    const invalid = await chat.call('POST', '/api/chat', {});
    const shown: [name: string, value: object][] = [
      ['ChatReply', { conversation_id: id, ...reply }],
      ['Usage', reply.usage ?? {}],
      ['Conversation', await chat.read(id)],
      ['Message', (await chat.read(id)).messages[0] ?? {}],
      ['ConversationList', JSON.parse((await chat.call('GET', '/api/conversations')).text)],
      ['Export', JSON.parse((await chat.call('GET', '/api/conversations/export-all')).text)],
      ['ExportPreview', JSON.parse((await chat.call('GET', '/api/conversations/export-all?preview=1')).text)],
      ['StopReport', JSON.parse((await chat.call('DELETE', `/api/chat-stream/${reply.message_id}`)).text)],
      ['Readiness', JSON.parse((await readiness(chat)).text)],
      ['Health', JSON.parse((await chat.call('GET', '/health')).text)],
      ['Problem', { ...JSON.parse(missing.text), errors: [] }],
      ['Problem', JSON.parse(invalid.text)],
    ];
    for (const [name, value] of shown) {
      const schema = z
        .object({ properties: z.record(z.string(), z.unknown()), required: z.array(z.string()).default([]) })
        .parse(components.schemas[name] ?? components.schemas[`${name}Output`]);
      const { properties, required } = schema;
      for (const member of required) assert.ok(member in value, `${name} without ${member}`);
      for (const member of Object.keys(value)) assert.ok(member in properties, `${name} with ${member}`);
    }
  });
});
