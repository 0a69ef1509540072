/** Clients that people use, whose connection breaks in the middle of a reply. Each waits `retry`, three seconds. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { after, before, describe, it } from 'node:test';
import { fetchEventSource } from '@microsoft/fetch-event-source';
import { EventSource } from 'eventsource';
import { z } from 'zod';
import { type ChatServer, startChat, until } from '../support/chat-server.ts';
import { createGate, delta, done, finish, type Gate, script, usage, wait } from '../support/fake-upstream.ts';
import { openStream } from '../support/sse-client.ts';

const FIRST = '您好😀, ';
const SECOND = '**world** 👨‍👩‍👧.';
const WHOLE = FIRST + SECOND;

const started = z.object({ request: z.custom<IncomingMessage>((value) => value instanceof Object) });
const payload = z.looseObject({ content: z.string() });

describe('a disconnected client resumes by itself:', { concurrency: true }, () => {
  let chat: ChatServer;
  const requests: IncomingMessage[] = [];
  const remember = (message: unknown) => void requests.push(started.parse(message).request);
  before(async () => {
    chat = await startChat({ SSE_OPEN_MS: '600000', SSE_HEARTBEAT_MS: '100' });
    chat.upstream.respond(async (exchange) => {
      const gate = gates.get(exchange.request.body.messages.at(-1)?.content ?? '');
      assert(gate);
      await script(delta(FIRST), wait(gate), delta(SECOND), finish(), usage(), done())(exchange);
    });
    subscribe('http.server.request.start', remember);
  });
  after(async () => {
    unsubscribe('http.server.request.start', remember);
    await chat.stop();
  });
  const gates = new Map<string, Gate>();

  /** A reply that has said its first half; `go` lets it say the rest. */
  async function halfSaid(message: string) {
    const gate = createGate();
    gates.set(message, gate);
    const reader = await openStream(chat.url, { message, format: 'markdown', cache: false });
    await reader.until('content');
    reader.leave();
    const id = String(reader.headers['x-stream-id']);
    return { id, path: `/api/chat-stream/${id}`, go: () => gate.open() };
  }

  const requestsTo = (path: string) => requests.filter(({ url, method }) => url === path && method === 'GET');

  /** From the side of the server, as when a proxy or the net between breaks. */
  function cut(path: string): void {
    const [request] = requestsTo(path).slice(-1);
    assert(request && !request.socket.destroyed);
    request.socket.destroy();
  }

  /** What the requests of a reader say it has, each `:` and after it. */
  const positions = (path: string) =>
    requestsTo(path).map(({ headers }) => headers['last-event-id']?.toString().replace(/^[^:]*/, ''));

  it('the package eventsource, and is stopped by the 204', async () => {
    const { id, path, go } = await halfSaid('eventsource');
    const source = new EventSource(`${chat.url}${path}`);
    const seen: string[] = [];
    let text = '';
    const note = ({ type, data }: { type: string; data: string }) => {
      const { content } = payload.parse(JSON.parse(data));
      seen.push(type);
      text += content;
    };
    for (const type of ['start', 'message', 'done']) source.addEventListener(type, note);
    const codes: (number | undefined)[] = [];
    source.addEventListener('error', ({ code }) => void codes.push(code));
    await until('the first half', () => text === FIRST);
    cut(path);
    go();
    await until('the 204', () => source.readyState === EventSource.CLOSED);
    assert.equal(text, WHOLE);
    assert.deepEqual(seen, ['start', 'message', 'start', 'message', 'done']);
    assert.deepEqual(positions(path), [undefined, `:${FIRST.length}`, `:${WHOLE.length}:end`]);
    assert.equal(codes.at(-1), 204, id);
  });

  it('@microsoft/fetch-event-source', async (t) => {
    const { path, go } = await halfSaid('fetch-event-source');
    // It is made for pages: all that it needs of one.
    const page = { document: { hidden: false, addEventListener() {}, removeEventListener() {} } };
    Object.assign(globalThis, { ...page, window: globalThis });
    t.after(() => {
      Reflect.deleteProperty(globalThis, 'document');
      Reflect.deleteProperty(globalThis, 'window');
    });
    let text = '';
    const seen: string[] = [];
    const reading = fetchEventSource(`${chat.url}${path}`, {
      onmessage({ event, data }) {
        // It takes the blank line after a ping for a message.
        if (data === '') return;
        seen.push(event);
        text += payload.parse(JSON.parse(data)).content;
      },
    });
    await until('the first half', () => text === FIRST);
    cut(path);
    go();
    await reading;
    assert.equal(text, WHOLE);
    assert.deepEqual(seen, ['start', '', 'start', '', 'done']);
    assert.deepEqual(positions(path), [undefined, `:${FIRST.length}`]);
  });

  it('curl with its position', async () => {
    const { id, path, go } = await halfSaid('curl');
    const first = curl(`${chat.url}${path}`);
    await until('the first half', () => first.output().includes('您好'));
    cut(path);
    assert.notEqual(await first.code, 0, 'curl does not take a broken stream for a whole one');
    go();
    const last = lastId(first.output());
    assert.equal(last, `${id}:${FIRST.length}`);
    const second = curl('-H', `Last-Event-ID: ${last}`, `${chat.url}${path}`);
    assert.equal(await second.code, 0);
    const contents = [...(first.output() + second.output()).matchAll(/^data: (.*)$/gm)].map(
      ([, data]) => payload.parse(JSON.parse(data ?? '')).content,
    );
    assert.equal(contents.join(''), WHOLE);
    const end = lastId(second.output());
    assert.equal(end, `${id}:${WHOLE.length}:end`);
    const third = curl('-w', '%{http_code}', '-H', `Last-Event-ID: ${end}`, `${chat.url}${path}`);
    assert.equal(await third.code, 0);
    assert.equal(third.output(), '204');
  });
});

const lastId = (stream: string) => [...stream.matchAll(/^id: (.*)$/gm)].at(-1)?.[1];

function curl(...options: string[]) {
  const child = execFile('curl', ['-sN', '--noproxy', '*', '--max-time', '20', ...options]);
  let output = '';
  child.stdout?.on('data', (piece: string) => {
    output += piece;
  });
  const code = once(child, 'close').then(([number]: unknown[]) => number);
  return { output: () => output, code };
}
