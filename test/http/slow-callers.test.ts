/** Clients that send a byte now and then, or stop reading, on every route where that can last. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { request, type ServerResponse } from 'node:http';
import { connect, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises';
import { type ChatServer, databases, startChat, until } from '../support/chat-server.ts';
import { store, storedConversation } from '../support/export-data.ts';
import { download, jobThatIs, startJob } from '../support/export-jobs.ts';
import { reply } from '../support/fake-upstream.ts';
import { joined, resumeStream } from '../support/sse-client.ts';

const ID = '0198f6f0-0000-7000-8000-000000000000';

/** A client that does not care for errors: the server may close with bytes unread. */
function open(url: string): Socket {
  return connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
}

describe('a client that sends a byte now and then', () => {
  let chat: ChatServer;
  /** `POST /api/chat` and so on, with whether it takes a body. */
  let routes: [string, boolean][];

  before(async () => {
    chat = await startChat({}, { headersTimeoutMs: 700, requestTimeoutMs: 1400 });
    const { paths } = JSON.parse((await chat.call('GET', '/openapi.json')).text);
    routes = Object.entries<Record<string, { requestBody?: object }>>(paths).flatMap(([path, operations]) =>
      Object.entries(operations).map(([method, { requestBody }]): [string, boolean] => [
        `${method.toUpperCase()} ${path.replaceAll(/\{\w+\}/g, ID)}`,
        requestBody !== undefined,
      ]),
    );
    assert(routes.length > 15);
  });
  after(() => chat.stop());

  /** Sends `start`, then a byte in every 100 ms until the server closes. @returns all that it said */
  async function drip(start: string): Promise<string> {
    const socket = open(chat.url).setEncoding('utf8');
    let said = '';
    socket.on('data', (text) => {
      said += text;
    });
    socket.on('end', () => socket.destroy());
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.write(start);
    const drops = setInterval(() => socket.write('x'), 100);
    await closed;
    clearInterval(drops);
    return said;
  }

  it('gets 408 or its answer, and is disconnected, on every route, while others are served', async () => {
    let isOver = false;
    let served = 0;
    const others = (async () => {
      for (; !isOver; served++) {
        assert.equal((await chat.ask({ message: `while others dawdle ${served}` })).persisted, true);
        await pause(20);
      }
    })();
    const began = performance.now();
    const heads = routes.map(async ([route]) => {
      assert.match(await drip(`${route} HTTP/1.1\r\nHost: localhost\r\nX-Slow: `), /^HTTP\/1\.1 408 /, route);
    });
    const bodies = routes.flatMap(([route, hasBody]) =>
      [
        'Content-Length: 10000\r\n\r\n{"message":"',
        'Transfer-Encoding: chunked\r\n\r\n2710\r\n{"message":"',
      ].map(async (rest) => {
        const type = route.endsWith('/api/imports') ? 'application/x-ndjson' : 'application/json';
        const said = await drip(`${route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${type}\r\n${rest}`);
        // Where no keys are used, requests for them are refused before the body is read.
        const expected =
          hasBody && !route.includes('/api/keys') ? /^HTTP\/1\.1 408 / : /^HTTP\/1\.1 [245]\d\d /;
        assert.match(said, expected, route);
      }),
    );
    await Promise.all([...heads, ...bodies]);
    const took = performance.now() - began;
    isOver = true;
    await others;
    assert(served >= 10, `only ${served} others were served`);
    assert.equal((await chat.countRows()).conversations, served, 'something was stored of half a body');
    assert(took < 10_000, `${took} ms`);
  });
});

/** Of each route: ten together. */
const STALLED = 2;
const MB = 1024 * 1024;
/** More than the buffers of the system take for a client that does not read, compressed too. */
const DATA_MB = 16;
const TIME = '2026-01-01 00:00:00.000';

describe('a reader of a stream that stops reading', () => {
  it('makes the server wait with the rest, which it gets when it reads again', async (t) => {
    const chat = await startChat({ REPLY_MAX_BYTES: '15mb' });
    t.after(() => chat.stop());
    // More than the buffers of a connection, which hold about 6 MB.
    const text = '很长'.repeat(2 * MB);
    chat.upstream.respond(reply(text));
    const { message_id: id } = await chat.ask({ message: 'a long one' });
    chat.upstream.respond(reply('short'));
    let response: ServerResponse | undefined;
    const note = (message: unknown) => {
      ({ response } = message as { response: ServerResponse });
    };
    subscribe('http.server.request.start', note);
    const reader = await resumeStream(chat.url, id);
    unsubscribe('http.server.request.start', note);
    await until('the connection is full', () => response?.writableNeedDrain);
    // The session could write a part in each of these turns of the event loop.
    for (let turn = 0; turn < 2000; turn++) await nextTurn();
    assert((response?.writableLength ?? text.length) < MB / 4, `${response?.writableLength} bytes wait`);
    assert.equal((await chat.ask({ message: 'others are served' })).response, 'short');
    assert.equal(joined(await reader.rest()), text);
  });
});

for (const place of databases()) {
  describe(`clients of exports, on ${place.name},`, () => {
    let chat: ChatServer;
    let large: string;
    let file: string;

    before(async () => {
      const env = { DB_POOL_MAX: '2', DB_ACQUIRE_TIMEOUT_MS: '2000', CONVERSATION_TTL_HOURS: '0' };
      chat = await startChat({ ...env, ...(await place.create()) }, { stallMs: 3000 });
      large = (await chat.ask({ message: 'first' })).conversation_id;
      const { knex } = chat.server.database;
      for (let n = 0; n < 2 * DATA_MB; n++) {
        await knex('messages').insert({
          uid: crypto.randomUUID(),
          conversation_id: large,
          seq: 3 + n,
          role: 'user',
          // Does not compress well.
          content: randomBytes((MB * 3) / 8).toString('base64'),
          timestamp: TIME,
          status: 'complete',
          updated_at: TIME,
        });
      }
      await knex('conversations')
        .where({ id: large })
        .update({ last_seq: 2 + 2 * DATA_MB });
      file = (await startJob(chat.url, { format: 'ndjson' })).id;
      await jobThatIs(chat.url, file);
    });
    after(async () => {
      await chat.stop();
      await place.drop();
    });

    it('that do not read hold nothing that others need, and are disconnected', async (t) => {
      const all = '/api/conversations/export-all?format=';
      const routes = [
        [`${all}ndjson`, 'identity'],
        [`${all}csv`, 'identity'],
        [`${all}json`, 'gzip'],
        [`/api/conversations/${large}/export?format=json`, 'identity'],
        [`/api/exports/${file}/file`, 'identity'],
      ];
      const { database } = chat.server;
      const idle = process.memoryUsage.rss();
      const sockets = routes.flatMap(([path, encoding]) =>
        Array.from({ length: STALLED }, () => {
          const socket = open(chat.url);
          const id = `stalled-${crypto.randomUUID()}`;
          socket.write(
            `GET ${path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: ${encoding}\r\nX-Request-Id: ${id}\r\n\r\n`,
          );
          return socket;
        }),
      );
      t.after(() => sockets.forEach((socket) => void socket.destroy()));
      for (const socket of sockets) {
        const [first] = await once(socket, 'data');
        socket.pause();
        assert.match(String(first), /^HTTP\/1\.1 200 /);
      }

      // Until then they fill the buffers of the system.
      let readAt = performance.now();
      database.knex.on('query', () => {
        readAt = performance.now();
      });
      await until('the end of their reading', () => performance.now() - readAt > 300);

      const began = performance.now();
      const start_date = new Date().toISOString();
      assert.equal((await chat.ask({ message: 'beside them' })).persisted, true);
      assert.equal((await chat.read(large, '?limit=1')).conversation_id, large);
      assert.equal((await chat.call('GET', '/health/ready')).status, 200);
      const { id } = await startJob(chat.url, { format: 'csv', start_date });
      await jobThatIs(chat.url, id);
      for (const format of ['csv', 'json', 'ndjson']) {
        const other = await download(`${chat.url}${all}${format}&start_date=${start_date}`);
        assert.match(other.bytes.toString('utf8'), /echo: beside them/);
      }
      const took = performance.now() - began;
      const more = (process.memoryUsage.rss() - idle) / MB;
      t.diagnostic(`others took ${took.toFixed()} ms, ${more.toFixed()} MB more`);
      assert(took < 5000, `others took ${took} ms`);
      assert(more < 400, `${more} MB more`);

      const ended = () =>
        chat.server.lines.filter(
          ({ request_id, msg }) => String(request_id).startsWith('stalled-') && msg === 'request',
        );
      await until('the disconnection of all', () => ended().length === sockets.length);
      assert.deepEqual(new Set(ended().map(({ client }) => client)), new Set(['gone']));
    });

    it('that leave during a preview end its queries', async () => {
      const { database } = chat.server;
      await store(
        database,
        Array.from({ length: 4000 }, (_, n) => storedConversation(Date.UTC(2025, 0, 1) + n, ['short'])),
      );
      let queries = 0;
      let onQuery = () => {};
      database.knex.on('query', ({ sql }: { sql: string }) => {
        if (!/\bmessages\b/.test(sql)) return;
        queries += 1;
        onQuery();
      });
      const path = '/api/conversations/export-all?format=csv&preview=1&role=user';
      assert.equal((await chat.call('GET', path)).status, 200);
      const whole = queries;
      const id = `left-${crypto.randomUUID()}`;
      const outgoing = request(`${chat.url}${path}`, { agent: false, headers: { 'x-request-id': id } });
      outgoing.on('error', () => {});
      const left = new Promise<void>((resolve) => {
        onQuery = () => {
          if (queries !== whole + 5) return;
          outgoing.destroy();
          resolve();
        };
      });
      outgoing.end();
      await left;
      const began = queries;
      // A chat is served after what the preview has begun.
      await chat.ask({ message: 'afterwards' });
      await until('the end of the preview', () =>
        chat.server.lines.some(({ request_id, msg }) => request_id === id && msg === 'request'),
      );
      assert(whole - 5 > 10, `${whole} queries for a whole preview`);
      assert(queries - began <= 4, `${queries - began} queries of ${whole - 5} after its caller left`);
    });
  });
}
