/** A page that has nothing but `fetch`. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { type ChatServer, startChat, until } from '../support/chat-server.ts';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { thenSilence } from '../support/fake-upstream.ts';

const chromium = provideChromium();

/** Reads a stream to its end, or to its first text, where it aborts. */
const READ = `async ([url, question, aborts]) => {
  const controller = new AbortController();
  const response = await fetch(url + '/v1/chat/completions', {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer none' },
    body: JSON.stringify({ stream: true, messages: [{ role: 'user', content: question }] }),
    signal: controller.signal,
  });
  const conversation = response.headers.get('x-conversation-id');
  let body = '';
  try {
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      body += text;
      if (aborts && body.includes('One')) controller.abort();
    }
  } catch (error) {
    return { conversation, error: error.name };
  }
  return { conversation, body };
}`;

describe('/v1 for a page of another origin', { skip: chromium === undefined }, () => {
  let chat: ChatServer;
  let browser: Browser;
  let elsewhere: Server;
  before(async () => {
    [chat, browser] = await Promise.all([startChat(), sharedChromium(chromium ?? '')]);
    elsewhere = createServer((_, response) => response.setHeader('content-type', 'text/html').end('<p>'));
    await once(elsewhere.listen(0, '127.0.0.1'), 'listening');
  });
  after(async () => {
    elsewhere?.closeAllConnections();
    elsewhere?.close();
    await chat?.stop();
  });

  test('streams from another origin, sees the conversation, and aborts', async () => {
    const page = await browser.newPage();
    try {
      await page.goto(`http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}`);
      const read = (question: string, aborts: boolean) =>
        page.evaluate(`(${READ})(${JSON.stringify([chat.url, question, aborts])})`) as Promise<
          Record<'conversation' | 'body' | 'error', string>
        >;
      const whole = await read('Hello', false);
      assert.match(whole.body, /"content":"ech.*data: \[DONE\]\n\n$/s);
      assert.equal((await chat.read(whole.conversation)).messages[1]?.content, 'echo: Hello');
      chat.upstream.respond([thenSilence('One ')]);
      const aborted = await read('Stop me', true);
      assert.equal(aborted.error, 'AbortError');
      await chat.upstream.waitForClosed(2);
      await until('the end of the turn', async () =>
        (await chat.read(aborted.conversation)).messages.some(({ status }) => status === 'cancelled'),
      );
    } finally {
      await page.close();
    }
  });
});
