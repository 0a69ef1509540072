import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import express, { type Express } from 'express';
import { sendDownload } from '../../src/http/response/download.ts';
import { sendJson } from '../../src/http/response/problem.ts';
import { sendFile } from '../../src/http/response/send-file.ts';
import { HttpServer, type ServerLimits } from '../../src/http/server/server.ts';
import { until } from '../support/chat-server.ts';
import { converse } from './raw-connection.ts';

const REQUEST = 'GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n';
/** More than the kernels of both sides take. */
const LARGE = 64 * 1024 * 1024;

let stop: () => Promise<void> = () => Promise.resolve();

async function start(app: Express, limits: Partial<ServerLimits>) {
  const server = new HttpServer(app, { bodyLimit: 1000, ...limits });
  const { url } = await server.listen(0, '127.0.0.1');
  stop = () => {
    const { closed, force } = server.close(0);
    force();
    return closed;
  };
  return url;
}

function greeter(): Express {
  const app = express();
  app.get('/', (_request, response) => sendJson(response, 200, { hello: 'you' }));
  return app;
}

async function open(url: string): Promise<Socket> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
}

describe('a server at its connection limit', () => {
  afterEach(() => stop());

  it('responds to one more with 503, and serves again when one has closed', async () => {
    const logged: object[] = [];
    const log = { warn: (fields: object, message: string) => void logged.push({ ...fields, message }) };
    const url = await start(greeter(), { maxConnections: 3, log });
    const taken = await Promise.all([open(url), open(url), open(url)]);
    const refused = await converse(url, REQUEST);
    assert.deepEqual([refused.statuses, refused.closed], [[503], true]);
    assert.equal(JSON.parse(refused.body).code, 'capacity');
    assert.equal(refused.headers.get('retry-after'), '5');
    assert.match(refused.headers.get('content-security-policy') ?? '', /default-src 'none'/);
    const named = REQUEST.replace('GET /', 'GET /v1/models').replace(
      '\r\n\r\n',
      '\r\nX-Request-Id: r1\r\n\r\n',
    );
    const v1 = await converse(url, named);
    assert.deepEqual([v1.statuses, v1.headers.get('x-request-id')], [[503], 'r1']);
    assert.equal(JSON.parse(v1.body).error.code, 'capacity');
    assert.deepEqual(logged, [{ connections: 4, limit: 3, message: 'connection limit reached' }]);
    taken[0]?.destroy();
    await until('a free place', async () => (await converse(url, REQUEST, 100)).statuses[0] === 200);
    for (const socket of taken) socket.destroy();
  });

  it('serves the connections that it has', async () => {
    const url = await start(greeter(), { maxConnections: 1 });
    const first = await open(url);
    await converse(url, REQUEST);
    first.write(REQUEST);
    const [answer] = await once(first, 'data');
    assert.match(String(answer), /^HTTP\/1\.1 200 /);
    first.destroy();
  });

  it('waits at most two seconds for the request of an excess connection', async () => {
    const url = await start(greeter(), { maxConnections: 1 });
    const first = await open(url);
    const silent = await open(url);
    const began = performance.now();
    await once(silent, 'close');
    // A whole head may take 15 s.
    assert(performance.now() - began < 12_000);
    first.destroy();
  });

  it('drops connections beyond that without a response', async () => {
    const url = await start(greeter(), { maxConnections: 1 });
    const taken = await Promise.all(Array.from({ length: 201 }, () => open(url)));
    const answer = await converse(url, REQUEST, 5000);
    assert.deepEqual([answer.statuses, answer.closed], [[], true]);
    for (const socket of taken) socket.destroy();
  });
});

describe('a client that does not read', () => {
  let folder: string;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-api-slow-'));
    await writeFile(join(folder, 'large.json'), Buffer.alloc(LARGE, 'x'));
  });
  afterEach(() => stop());
  after(() => rm(folder, { recursive: true }));

  /** Asks for the page and takes none of it, until the server has given up; others are served then. */
  async function ignore(app: Express, released: () => boolean): Promise<void> {
    const url = await start(app, { stallMs: 300 });
    const socket = await open(url);
    socket.pause();
    socket.write(REQUEST);
    await until('the end of what was held for it', released);
    socket.destroy();
    assert.equal((await fetch(`${url}/small`)).status, 200);
  }

  function slowApp(page: (app: Express) => void): Express {
    const app = express();
    page(app);
    app.get('/small', (_request, response) => sendJson(response, 200, {}));
    return app;
  }

  it('of a JSON response is disconnected', async () => {
    let closed = false;
    const app = slowApp((pages) =>
      pages.get('/', (_request, response) => {
        response.once('close', () => {
          closed = !response.writableFinished;
        });
        sendJson(response, 200, 'x'.repeat(LARGE));
      }),
    );
    await ignore(app, () => closed);
  });

  it('of a stored file is disconnected', async () => {
    let ended = false;
    const file = {
      folder,
      name: 'large.json',
      type: 'application/json',
      bytes: LARGE,
      sha256: 'ab'.repeat(32),
    };
    const app = slowApp((pages) =>
      pages.get('/', async (request, response) => {
        await sendFile(request, response, file);
        ended = !response.writableFinished;
      }),
    );
    await ignore(app, () => ended);
  });

  for (const encoding of ['identity', 'gzip', 'br', 'zstd']) {
    it(`of a generated file (${encoding}) is disconnected, and the generation ends`, async () => {
      let made = 0;
      let ended = false;
      async function* chunks() {
        try {
          // Does not pack well, so that the packed file is large too.
          for (;;) {
            yield crypto.getRandomValues(Buffer.alloc(65_536));
            made += 65_536;
          }
        } finally {
          ended = true;
        }
      }
      const app = slowApp((pages) =>
        pages.get('/', async (request, response) => {
          request.headers['accept-encoding'] = encoding;
          const download = { name: 'x', type: 'text/csv', trailers: [] };
          await sendDownload(request, response, {
            ...download,
            open: () => Promise.resolve({ chunks: chunks(), trailers: () => ({}) }),
          });
        }),
      );
      await ignore(app, () => ended);
      assert(made > 0 && made < LARGE, `${made} bytes were generated without a reader`);
    });
  }

  it('that waits for a reply to begin is not disconnected', async () => {
    const app = express();
    app.get('/', (_request, response) => {
      setTimeout(() => sendJson(response, 200, { hello: 'at last' }), 1000);
    });
    const url = await start(app, { stallMs: 200 });
    assert.deepEqual(await (await fetch(url)).json(), { hello: 'at last' });
  });

  it('is disconnected also after a longer wait for the reply', async () => {
    let closed = false;
    const app = slowApp((pages) =>
      pages.get('/', (_request, response) => {
        response.once('close', () => {
          closed = !response.writableFinished;
        });
        setTimeout(() => sendJson(response, 200, 'x'.repeat(LARGE)), 900);
      }),
    );
    await ignore(app, () => closed);
  });
});
