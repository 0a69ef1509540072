/** A server with a scriptable model, and helpers for tests of its HTTP interface. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http';
import { text as readText } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';
import mysql from 'mysql2/promise';
import type { z } from 'zod';
import type { Overrides } from '../../src/compose/index.ts';
import { openAiError } from '../../src/http/openai/schemas.ts';
import { chatReply } from '../../src/http/schemas/chat.ts';
import { problem } from '../../src/http/schemas/common.ts';
import { conversation } from '../../src/http/schemas/conversations.ts';
import { serverUrls } from './databases.ts';
import { type FakeUpstream, startFakeUpstream } from './fake-upstream.ts';
import { fillMysql } from './migrated.ts';
import { plantMessage } from './planted.ts';
import { startServer, type TestServer } from './server.ts';

/** The API key of the model server. No other output may contain it. */
export const KEY = 'sk-test-5ecret-0f-this-server';

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

export interface StoredRow {
  readonly uid: string;
  readonly role: string;
  readonly content: string;
  readonly status: string;
  readonly finish_reason: string | null;
  readonly reply_to: string | null;
}

export interface ChatServer {
  readonly server: TestServer;
  readonly upstream: FakeUpstream;
  readonly url: string;
  /** One request on a connection of its own. */
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
  /** POST /api/chat. The response must be 200 and have exactly the members of the schema. */
  ask(body: object): Promise<z.output<typeof chatReply>>;
  /** GET of a conversation, checked in the same way. */
  read(id: string, query?: string): Promise<z.output<typeof conversation>>;
  /** The rows of a conversation, as the database has them. */
  rows(id: string): Promise<StoredRow[]>;
  countRows(): Promise<{ conversations: number; messages: number }>;
  stop(): Promise<void>;
}

/** The server without retries and without a breaker, unless `env` and `overrides` say otherwise. */
export async function startChat(
  env: Record<string, string> = {},
  overrides: Overrides = {},
): Promise<ChatServer> {
  const upstream = await startFakeUpstream();
  const server = await startServer(
    { OPENAI_BASE_URL: upstream.baseUrl, OPENAI_API_KEY: KEY, OPENAI_MAX_RETRIES: '0', ...env },
    { breaker: { minCalls: Number.MAX_SAFE_INTEGER }, ...overrides },
  );
  const { url } = server;
  const call: ChatServer['call'] = (method, path, body, headers) => send(url, method, path, body, headers);
  const count = async (table: string) => (await server.database.knex(table).select('id')).length;
  return {
    server,
    upstream,
    url,
    call,
    ask: async (body) => shaped(chatReply, await call('POST', '/api/chat', body)),
    read: async (id, query = '') =>
      shaped(conversation, await call('GET', `/api/conversations/${id}${query}`)),
    rows: (id) =>
      server.database
        .knex('messages')
        .join('conversations', 'conversations.id', 'conversation_id')
        .select('uid', 'role', 'content', 'status', 'finish_reason', 'reply_to')
        .where({ conversation_id: id })
        // Without rows of an earlier epoch, which are removed later.
        .whereRaw('messages.epoch = conversations.epoch')
        .orderBy('messages.id'),
    countRows: async () => ({
      conversations: await count('conversations'),
      messages: await count('messages'),
    }),
    async stop() {
      await server.stop();
      await upstream.close();
    },
  };
}

async function send(
  url: string,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answer> {
  plantMessage(body);
  const outgoing = request(`${url}${path}`, {
    method,
    agent: false,
    headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
  });
  outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  return { status: response.statusCode ?? 0, headers: response.headers, text: await readText(response) };
}

/** The body of a 200 response, which must match the schema exactly. */
export function shaped<S extends z.ZodObject>(schema: S, answer: Answer): z.output<S> {
  assert.equal(answer.status, 200, answer.text);
  assert.equal(answer.headers['content-type'], 'application/json; charset=utf-8');
  const body: unknown = JSON.parse(answer.text);
  assert.deepEqual(schema.parse(body), body, 'the answer has more than the schema');
  return schema.parse(body);
}

/** The problem document of a response, checked against its status and headers. */
export function problemOf(answer: Answer, status: number, code: string): z.output<typeof problem> {
  assert.equal(answer.status, status, answer.text);
  assert.match(answer.headers['content-type'] ?? '', /^application\/problem\+json/);
  const body: unknown = JSON.parse(answer.text);
  return checkedProblem(body, status, code, String(answer.headers['x-request-id']));
}

export function checkedProblem(
  body: unknown,
  status: number,
  code: string,
  requestId: string,
): z.output<typeof problem> {
  const document = problem.parse(body);
  const { type, error, detail } = document;
  assert.deepEqual(
    [document.status, document.code, type, error, document.request_id],
    [status, code, `/problems/${code.replaceAll('_', '-')}`, detail, requestId],
  );
  return document;
}

/** The error in a response of a route below `/v1`. */
export function openAiErrorOf(answer: Answer, status: number, code: string) {
  assert.equal(answer.status, status, answer.text);
  assert.match(answer.headers['content-type'] ?? '', /^application\/json/);
  assert(answer.headers['x-request-id']);
  const body: unknown = JSON.parse(answer.text);
  const { error } = openAiError.parse(body);
  assert.deepEqual({ error }, body);
  assert.equal(error.code, code);
  return error;
}

/** Calls `condition` until its result is neither undefined nor false; fails after a minute. */
export async function until<T>(
  what: string,
  condition: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  const deadline = performance.now() + 60_000;
  // The interval grows, so that a long wait takes little CPU time from what it waits for.
  for (let ms = 5; ; ms = Math.min(ms * 1.05, 50)) {
    const value = await condition();
    if (value !== undefined && value !== false) return value;
    assert(performance.now() < deadline, `${what} did not come about in time`);
    await pause(ms);
  }
}

/** The databases to run a suite on: SQLite, and a new database on each available server, migrated or without tables. */
export function databases(migrated = true): {
  name: string;
  create(): Promise<Record<string, string>>;
  drop(): Promise<void>;
}[] {
  const sqlite = { name: 'SQLite', create: () => Promise.resolve({}), drop: () => Promise.resolve() };
  const servers = serverUrls().map((uri) => {
    const database = `chat_http_${randomBytes(6).toString('hex')}`;
    const url = new URL(uri);
    url.pathname = `/${database}`;
    const run = async (sql: string) => {
      const connection = await mysql.createConnection({ uri });
      await connection.query(sql).finally(() => connection.end());
    };
    return {
      name: `MySQL ${url.host}`,
      create: async () => {
        await run(`CREATE DATABASE ${database}`);
        if (migrated) await fillMysql(url.href);
        return { DATABASE_URL: url.href, DB_AUTO_MIGRATE: 'on' };
      },
      drop: () => run(`DROP DATABASE ${database}`),
    };
  });
  return [sqlite, ...servers];
}
