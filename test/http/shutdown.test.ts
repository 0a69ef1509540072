import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, type IncomingMessage, request } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text as readText } from 'node:stream/consumers';
import { after, before, beforeEach, describe, it, type TestContext } from 'node:test';
import { setImmediate as immediate } from 'node:timers/promises';
import express from 'express';
import { HttpServer } from '../../src/http/server/server.ts';
import { END_AFTER_MS, shutDown } from '../../src/startup/shutdown.ts';
import { checkedProblem, problemOf, startChat, until } from '../support/chat-server.ts';
import { type ChildFolder, type ChildServer, makeFolder } from '../support/child-server.ts';
import { startJob } from '../support/export-jobs.ts';
import {
  createGate,
  delta,
  done,
  type FakeUpstream,
  finish,
  hang,
  script,
  silence,
  startFakeUpstream,
  usage,
  wait,
} from '../support/fake-upstream.ts';
import { silentLog } from '../support/fakes.ts';
import { startOwnDatabase } from '../support/own-database.ts';
import { checkStream, joined, openStream } from '../support/sse-client.ts';

/** Requests one after the other over one connection that is kept open. */
function caller(url: string) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const sockets = new Set<Socket>();
  return {
    sockets,
    async call(method: string, path: string, body?: object, headers: Record<string, string> = {}) {
      const outgoing = request(`${url}${path}`, {
        method,
        agent,
        headers: { 'content-type': 'application/json', ...headers },
      });
      outgoing.on('socket', (socket) => sockets.add(socket));
      outgoing.on('continue', () => outgoing.end(JSON.stringify(body)));
      if (!('expect' in headers)) outgoing.end(body && JSON.stringify(body));
      const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
      const { statusCode: status = 0, headers: answered } = response;
      return { status, headers: answered, text: await readText(response) };
    },
    close: () => agent.destroy(),
  };
}

/** Whether something listens at the URL. */
async function listens(url: string): Promise<boolean> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  const outcome = await Promise.race([
    once(socket, 'connect').then(() => true),
    once(socket, 'error').then(() => false),
  ]).catch(() => false);
  socket.destroy();
  return outcome;
}

describe('a server that shuts down', () => {
  let folder: string;
  let database: { DATABASE_URL: string };
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-api-stop-'));
  });
  after(() => rm(folder, { recursive: true, force: true }));
  let number = 0;
  beforeEach(() => {
    number += 1;
    database = { DATABASE_URL: `sqlite:${join(folder, `${number}.sqlite`)}` };
  });
  /** What the next server on the same database has of a conversation. */
  const leftOf = async (id: string) => {
    const next = await startChat(database);
    const { messages } = await next.read(id);
    await next.stop();
    return messages.map(({ content, status }) => [content, status]);
  };

  it('lets a stream finish with done within the grace period', async () => {
    const chat = await startChat({ ...database, SSE_OPEN_MS: '0', SHUTDOWN_GRACE_MS: '20000' });
    const gate = createGate();
    chat.upstream.respond([script(delta('one, '), wait(gate), delta('two'), finish(), usage(), done())]);
    const reader = await openStream(chat.url, { message: 'finish me' });
    const events = [await reader.until('start'), await reader.until('content')];
    const stopping = chat.stop();
    await until('no new connection', async () => !(await listens(chat.url)));
    gate.open();
    events.push(...(await reader.rest()));
    const end = checkStream(events);
    assert.deepEqual([end.type, end.data.persisted, joined(events)], ['done', true, 'one, two']);
    await stopping;
    assert.deepEqual(await leftOf(String(reader.headers['x-conversation-id'])), [
      ['finish me', 'complete'],
      ['one, two', 'complete'],
    ]);
  });

  it('finishes and saves the reply of a reader that has left', async () => {
    const chat = await startChat({ ...database, SSE_OPEN_MS: '0', SHUTDOWN_GRACE_MS: '20000' });
    const gate = createGate();
    chat.upstream.respond([script(delta('one, '), wait(gate), delta('two'), finish(), done())]);
    const reader = await openStream(chat.url, { message: 'leave me' });
    await reader.until('content');
    reader.leave();
    const stopping = chat.stop();
    await until('no new connection', async () => !(await listens(chat.url)));
    gate.open();
    await stopping;
    assert.deepEqual(await leftOf(String(reader.headers['x-conversation-id'])), [
      ['leave me', 'complete'],
      ['one, two', 'complete'],
    ]);
  });

  it('ends streams after the grace period with shutting_down, and saves their text as incomplete', async () => {
    const chat = await startChat({ ...database, SSE_OPEN_MS: '600000', SHUTDOWN_GRACE_MS: '50' });
    const id = crypto.randomUUID();
    chat.upstream.respond([script(delta('half'), silence()), hang(), hang()]);
    const reader = await openStream(chat.url, { message: 'too long' });
    const events = [await reader.until('start'), await reader.until('content')];
    const whole = chat.call('POST', '/api/chat', { message: 'whole', conversation_id: id });
    const unopened = chat.call('POST', '/api/chat-stream', { message: 'unopened' });
    await chat.upstream.waitForRequest(3);
    const stopping = chat.stop();
    events.push(...(await reader.rest()));
    const end = checkStream(events);
    checkedProblem(end.data, 503, 'shutting_down', String(reader.headers['x-request-id']));
    assert.equal(end.data.resume, `/api/chat-stream/${reader.headers['x-stream-id']}`);
    assert.match(end.raw, /^retry: 3000$/m);
    for (const answer of [await whole, await unopened]) {
      problemOf(answer, 503, 'shutting_down');
      assert.equal(answer.headers['retry-after'], '3');
    }
    for (const n of [1, 2, 3]) await chat.upstream.waitForClosed(n);
    await stopping;
    assert.deepEqual(await leftOf(String(reader.headers['x-conversation-id'])), [
      ['too long', 'complete'],
      ['half', 'incomplete'],
    ]);
    assert.deepEqual(await leftOf(id), [['whole', 'complete']]);
  });

  it('serves requests on connections that it has accepted, each with Connection: close', async () => {
    const chat = await startChat({ SSE_OPEN_MS: '0', SHUTDOWN_GRACE_MS: '20000' });
    const gate = createGate();
    chat.upstream.respond([script(delta('x'), wait(gate), finish(), done())]);
    const reader = await openStream(chat.url, { message: 'holds the door' });
    const events = [await reader.until('start'), await reader.until('content')];
    const callers = [0, 1, 2].map(() => caller(chat.url));
    for (const one of callers) {
      const { headers } = await one.call('GET', '/health');
      assert.equal(headers.connection, 'keep-alive');
    }
    const stopping = chat.stop();
    const [first, second, third] = callers;
    assert(first && second && third);
    const ready = await first.call('GET', '/health/ready');
    assert.deepEqual([ready.status, JSON.parse(ready.text).status], [503, 'stopping']);
    const asked = await second.call('POST', '/api/chat', { message: 'last orders' });
    assert.deepEqual([asked.status, JSON.parse(asked.text).persisted], [200, true]);
    const expected = await third.call(
      'POST',
      '/api/chat',
      { message: 'as curl' },
      { expect: '100-continue' },
    );
    assert.equal(expected.status, 200);
    for (const { headers } of [ready, asked, expected]) assert.equal(headers.connection, 'close');
    for (const { sockets } of callers) assert.equal(sockets.size, 1);
    await until('no new connection', async () => !(await listens(chat.url)));
    gate.open();
    events.push(...(await reader.rest()));
    checkStream(events);
    await stopping;
  });

  it('serves one more request on each idle connection, until each has been idle for the time', async (t) => {
    const gate = createGate();
    let asked = 0;
    const app = express().get('/{:headers}', async ({ params: { headers } }, response) => {
      asked += 1;
      if (headers === 'early') response.flushHeaders();
      if (headers !== undefined) await gate.opened;
      response.end('served');
    });
    const server = new HttpServer(app, { bodyLimit: 1 });
    const { url, port } = await server.listen(0, '127.0.0.1');
    const silent = connect(port, '127.0.0.1');
    await once(silent, 'connect');
    const [used, unused, streaming, waiting] = [caller(url), caller(url), caller(url), caller(url)];
    t.after(() => {
      for (const one of [used, unused, streaming, waiting]) one.close();
      silent.destroy();
    });
    for (const one of [used, unused])
      assert.equal((await one.call('GET', '/')).headers.connection, 'keep-alive');
    const replies = [streaming.call('GET', '/early'), waiting.call('GET', '/late')];
    await until('two open requests', async () => asked === 4);
    const ends = [unused, streaming].map(({ sockets: [socket] }) => once(socket as Socket, 'close'));
    const silentEnd = once(silent, 'close');

    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { closed } = server.close(5000);
    t.mock.timers.tick(4999);
    const last = await used.call('GET', '/');
    assert.deepEqual([last.text, last.headers.connection, used.sockets.size], ['served', 'close', 1]);
    gate.open();
    const saying = (await Promise.all(replies)).map(({ headers }) => headers.connection);
    assert.deepEqual(saying, ['keep-alive', 'close']);
    t.mock.timers.tick(1);
    await Promise.all([ends[0], silentEnd]);
    const again = await streaming.call('GET', '/');
    assert.deepEqual([again.headers.connection, streaming.sockets.size], ['close', 1]);
    await Promise.all([closed, ends[1]]);
  });

  it('does not wait for the connection of a finished stream that its reader would keep', async () => {
    const chat = await startChat({ SSE_OPEN_MS: '0', SHUTDOWN_GRACE_MS: '20000' });
    const gate = createGate();
    chat.upstream.respond([script(delta('x'), wait(gate), finish(), done())]);
    const [reader, idle] = [caller(chat.url), caller(chat.url)];
    await idle.call('GET', '/health');
    const reading = reader.call('POST', '/api/chat-stream', { message: 'keep me' });
    await chat.upstream.waitForRequest(1);
    const stopping = chat.stop();
    // The connection without a request goes first: after that nothing idle is looked for any more.
    await Promise.all([...idle.sockets].map((socket) => once(socket, 'close')));
    gate.open();
    assert.match((await reading).text, /event: done/);
    const began = performance.now();
    await stopping;
    assert(performance.now() - began < 5000, 'it waited for the grace to end');
  });

  it('can be stopped twice, and while idle', async () => {
    const chat = await startChat();
    await Promise.all([chat.server.stop(), chat.server.stop()]);
    await chat.stop();
    assert.equal(await listens(chat.url), false);
  });
});

describe('a process that gets a stop signal', () => {
  let folder: ChildFolder;
  let upstream: FakeUpstream;
  before(async () => {
    folder = await makeFolder();
    upstream = await startFakeUpstream();
  });
  after(async () => {
    await folder.remove();
    await upstream.close();
  });
  const start = () => folder.start({ OPENAI_BASE_URL: upstream.baseUrl, SSE_OPEN_MS: '0' });
  // Windows has no signals; PM2 sends the message there.
  const signals = process.platform === 'win32' ? [] : (['SIGTERM', 'SIGINT'] as const);
  const ways: [name: string, tell: (child: ChildServer) => unknown][] = [
    ...signals.map((signal): [string, (child: ChildServer) => unknown] => [
      signal,
      (child) => child.process.kill(signal),
    ]),
    ['the message "shutdown"', (child) => child.process.send?.('shutdown')],
  ];
  for (const [name, tell] of ways) {
    it(`by ${name} finishes its streams, saves them and exits with 0`, async () => {
      const child = start();
      const url = await child.listening();
      const gate = createGate();
      upstream.respond([script(delta('one, '), wait(gate), delta('two'), finish(), done())]);
      const reader = await openStream(url, { message: 'by signal' });
      const events = [await reader.until('start'), await reader.until('content')];
      tell(child);
      await child.line(/^stopping$/);
      await until('no new connection', async () => !(await listens(url)));
      gate.open();
      events.push(...(await reader.rest()));
      const end = checkStream(events);
      assert.deepEqual([end.type, end.data.persisted, joined(events)], ['done', true, 'one, two']);
      assert.deepEqual(await child.exited(), { code: 0, signal: null });
      assert.deepEqual(child.errors, []);
      assert.equal(child.lines.at(-1)?.msg, 'stopped');
    });
  }

  it('while it starts ends in order after its start', async () => {
    const child = folder.start({ OPENAI_BASE_URL: upstream.baseUrl, DATABASE_URL: 'sqlite:early.sqlite' });
    // The first thing of it that can be seen from outside.
    await child.line(/^migrated the database$/);
    for (const [, tell] of ways) tell(child);
    assert.deepEqual(await child.exited(), { code: 0, signal: null });
    assert.deepEqual(child.errors, []);
  });
});

describe('a shutdown while other systems do not respond', () => {
  const GRACE_MS = 300;
  /** That the end comes within 3 s is shown by a clock below. What waits for these systems waits for 30 s or more. */
  const IN_TIME_MS = 15_000;
  const grace = { SHUTDOWN_GRACE_MS: String(GRACE_MS), SSE_OPEN_MS: '0' };
  let folder: ChildFolder;
  let upstream: FakeUpstream;
  before(async () => {
    folder = await makeFolder();
    upstream = await startFakeUpstream();
  });
  after(async () => {
    await folder.remove();
    await upstream.close();
  });

  /** Accepts connections and sends nothing. */
  async function silentServer(t: TestContext) {
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      socket.on('error', () => {}).resume();
      sockets.add(socket);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => {
      server.close();
      for (const socket of sockets) socket.destroy();
    });
    const address = server.address();
    assert(address !== null && typeof address === 'object');
    return { sockets, port: address.port };
  }

  /** @returns how long the exit takes, with code 0 */
  async function exitOf(child: ChildServer): Promise<number> {
    const began = performance.now();
    child.process.send?.('shutdown');
    assert.deepEqual(await child.exited(), { code: 0, signal: null });
    return performance.now() - began;
  }

  it('aborts e-mails and webhooks, which the next process retries, and accepts no chat meanwhile', async (t) => {
    const [smtp, hook] = [await silentServer(t), await silentServer(t)];
    const env = {
      ...grace,
      SHUTDOWN_GRACE_MS: '5000',
      DATABASE_URL: 'sqlite:notify.sqlite',
      SMTP_URL: `smtp://127.0.0.1:${smtp.port}`,
      WEBHOOK_ALLOW_PRIVATE: 'on',
      OPENAI_BASE_URL: upstream.baseUrl,
    };
    const child = folder.start(env);
    const url = await child.listening();
    const gate = createGate();
    upstream.respond([script(delta('x'), wait(gate), finish(), done())]);
    const reader = await openStream(url, { message: 'keeps the server up' });
    await reader.until('content');
    await startJob(url, { notify: { email: 'a@example.com', webhook: `http://127.0.0.1:${hook.port}/` } });
    await until('both deliveries', () => smtp.sockets.size > 0 && hook.sockets.size > 0);
    const exit = exitOf(child);
    await until('the deliveries are aborted', () =>
      [...smtp.sockets, ...hook.sockets].every((socket) => socket.destroyed || socket.readableEnded),
    );
    assert.equal(await listens(url), false);
    gate.open();
    await reader.rest();
    // Neither the timeouts of the deliveries, 10 to 20 s, nor the grace period.
    assert((await exit) < 5000);
    const interrupted = child.lines.filter(({ msg }) => /^export notification interrupted/.test(String(msg)));
    assert.deepEqual(interrupted.map(({ channel }) => channel).sort(), ['email', 'webhook']);

    const next = folder.start(env);
    const [mails, calls] = [smtp.sockets.size, hook.sockets.size];
    await until('both are retried', () => smtp.sockets.size > mails && hook.sockets.size > calls);
    await exitOf(next);
  });

  it('saves running replies in the journal when the database is frozen', async (t) => {
    const database = await startOwnDatabase();
    t.after(() => database.server.stop());
    const env = { ...grace, ...database.env(), OPENAI_BASE_URL: upstream.baseUrl, DATA_DIR: 'frozen' };
    const child = folder.start(env);
    const url = await child.listening();
    upstream.respond([script(delta('half a reply'), silence())]);
    const reader = await openStream(url, { message: 'frozen' });
    await reader.until('content');
    database.server.freeze();
    assert((await exitOf(child)) < IN_TIME_MS);
    database.server.thaw();
    const next = await folder.start(env).listening();
    const path = `/api/conversations/${reader.headers['x-conversation-id']}`;
    const stored = await until('the replay', async () => {
      const text = await (await fetch(`${next}${path}`)).text();
      return text.includes('half a reply') && text;
    });
    assert.match(stored, /"frozen"/);
    assert.match(stored, /"half a reply",.*"status":"incomplete"/);
  });

  it('does not wait for a download that its client does not read', async () => {
    const child = folder.start({ ...grace, OPENAI_BASE_URL: upstream.baseUrl });
    const url = await child.listening();
    upstream.respond([script(delta('x'.repeat(4_000_000)), finish(), done())]);
    const reader = await openStream(url, { message: 'much' });
    await reader.rest();
    const download = request(`${url}/api/conversations/export-all?format=json`, { agent: false }).end();
    const [response] = (await once(download, 'response')) as [IncomingMessage];
    response.on('error', () => {}).pause();
    assert((await exitOf(child)) < IN_TIME_MS);
  });

  it('ends at the deadline when a part never stops', async (t) => {
    const never = new Promise<never>(() => {});
    const server = new HttpServer(express(), { bodyLimit: 1 });
    await server.listen(0, '127.0.0.1');
    const opened = new AsyncDisposableStack();
    opened.defer(() => never);
    let abandoned = 0;
    const parts = {
      health: { stop() {} },
      server,
      generations: { idle: () => never, abortAll() {} },
      turns: { idle: () => never },
      writer: { abandonDatabase: () => void abandoned++ },
      background: [{ stop: () => never }],
      opened,
    };
    // By a clock that only this test moves.
    let at = 0;
    t.mock.method(performance, 'now', () => at);
    t.mock.timers.enable({ apis: ['setTimeout'] });
    let isOver = false;
    const ended = shutDown(parts, 50, silentLog).finally(() => {
      isOver = true;
    });
    for (; !isOver && at < 10_000; await immediate()) {
      at += 10;
      t.mock.timers.tick(10);
    }
    assert.equal(at, 50 + END_AFTER_MS);
    await ended;
    assert.equal(abandoned, 1);
  });
});
