import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { IncomingMessage } from 'node:http';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { z } from 'zod';
import { type ChatServer, startChat } from '../support/chat-server.ts';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { createGate, delta, done, finish, script, thenReset, usage, wait } from '../support/fake-upstream.ts';
import { openStream } from '../support/sse-client.ts';
import { openPage, until } from './page.ts';

const chromium = provideChromium();

const FIRST = '您好😀, ';
const WHOLE = `${FIRST}**world** 👨‍👩‍👧.`;

const started = z.object({ request: z.custom<IncomingMessage>((value) => value instanceof Object) });

/** What a page does that reads a stream with EventSource: `read(name, url)` fills `window[name]`. */
const PAGE = `window.read = (name, url) => {
  const source = new EventSource(url);
  const told = { text: '', types: [], fault: null, get closed() { return source.readyState === 2; } };
  window[name] = told;
  const note = ({ type, data }) => {
    // An error of the connection has no data.
    if (data === undefined) return;
    const event = JSON.parse(data);
    told.types.push(type);
    told.text += event.content;
    if (type === 'error') told.fault = event.code;
  };
  for (const type of ['start', 'message', 'done', 'error']) source.addEventListener(type, note);
};`;

describe('an EventSource of a browser', { skip: chromium === undefined }, () => {
  let chat: ChatServer;
  let browser: Browser;
  const requests: IncomingMessage[] = [];
  const remember = (message: unknown) => void requests.push(started.parse(message).request);
  before(async () => {
    const env = { SSE_OPEN_MS: '600000', SSE_HEARTBEAT_MS: '100' };
    [chat, browser] = await Promise.all([startChat(env), sharedChromium(chromium ?? '')]);
    subscribe('http.server.request.start', remember);
  });
  after(async () => {
    unsubscribe('http.server.request.start', remember);
    await chat?.stop();
  });

  const requestsTo = (path: string) => requests.filter(({ url, method }) => url === path && method === 'GET');
  const positions = (path: string) =>
    requestsTo(path).map(({ headers }) => headers['last-event-id']?.toString().replace(/^[^:]*/, ''));

  test('reconnects when its connection breaks, and is stopped by the 204 after the end', async () => {
    const gate = createGate();
    const rest = WHOLE.slice(FIRST.length);
    chat.upstream.respond([
      script(delta(FIRST), wait(gate), delta(rest), finish(), usage(), done()),
      thenReset('Half'),
    ]);
    const ask = async (message: string) => {
      const reader = await openStream(chat.url, { message, format: 'markdown', cache: false });
      return { reader, path: `/api/chat-stream/${reader.headers['x-stream-id']}` };
    };
    const running = await ask('running');
    const broken = await ask('broken');
    await broken.reader.rest();
    running.reader.leave();

    const { page, foreign, close } = await openPage(browser, chat.url);
    await page.evaluate(PAGE);
    await page.evaluate(`read('running', '${running.path}'); read('broken', '${broken.path}');`);
    await until(page, `running.text === ${JSON.stringify(FIRST)}`);
    requestsTo(running.path)[0]?.socket.destroy();
    gate.open();
    await until(page, 'running.closed && broken.closed');

    assert.deepEqual(await page.evaluate('running'), {
      text: WHOLE,
      types: ['start', 'message', 'start', 'message', 'done'],
      fault: null,
      closed: true,
    });
    assert.deepEqual(positions(running.path), [undefined, `:${FIRST.length}`, `:${WHOLE.length}:end`]);
    // An interrupted reply ends with an event too, after which nothing follows.
    assert.deepEqual(await page.evaluate('broken'), {
      text: 'Half',
      types: ['start', 'message', 'error'],
      fault: 'reply_incomplete',
      closed: true,
    });
    assert.deepEqual(positions(broken.path), [undefined, ':4:end']);
    assert.deepEqual(foreign, []);
    await close();
  });
});
