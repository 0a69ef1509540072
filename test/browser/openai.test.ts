/** Pages that speak OpenAI's API: one that has nothing but `fetch`, and the chat page at `/?api=v1`. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { type ChatServer, startChat, until } from '../support/chat-server.ts';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import {
  chunk,
  createGate,
  delta,
  done,
  finish,
  raw,
  reasoning,
  reply,
  script,
  status,
  thenReset,
  thenSilence,
  usage,
  wait,
} from '../support/fake-upstream.ts';
import { ask, openPage, textOf } from './page.ts';

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

describe('/v1 in a browser', { skip: chromium === undefined }, () => {
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

  test('a page of another origin streams, sees the conversation, and aborts', async () => {
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

  test('the chat page streams, continues its conversation and lists it', async () => {
    const { page, faults, close } = await openPage(browser, `${chat.url}/?api=v1`);
    const routes: string[] = [];
    page.on('request', (request) => {
      if (request.method() === 'POST') routes.push(new URL(request.url()).pathname);
    });
    const gate = createGate();
    chat.upstream.respond([script(delta('One '), wait(gate), delta('**two**'), finish(), usage(), done())]);
    await page.locator('#message').fill('count');
    await page.locator('#message').press('Enter');
    await page.locator('.reply[data-state="streaming"] .text', { hasText: /^One $/ }).waitFor();
    gate.open();
    const ended = page.locator('.reply[data-state="done"]');
    await ended.locator('strong', { hasText: 'two' }).waitFor();
    assert.match(await textOf(ended.locator('.meta')), /^complete · fake-model · 3 \+ 5 tokens/);
    const address = new URL(page.url());
    assert.equal(address.searchParams.get('api'), 'v1');
    const id = address.searchParams.get('c') ?? '';
    const listed = page.locator(`#conversations a[data-id="${id}"]`);
    assert.equal(await listed.getAttribute('href'), `./?api=v1&c=${id}`);
    await page.reload();
    await ended.waitFor();
    const call = { index: 0, id: 'a', type: 'function', function: { name: 'add', arguments: '{}' } };
    chat.upstream.respond([
      script(reasoning('Hm.'), raw(chunk({ tool_calls: [call] })), finish('tool_calls'), done()),
      reply('three'),
    ]);
    await ask(page, 'and then?');
    assert.equal(await page.locator('details.reasoning p').textContent(), 'Hm.');
    await page.getByLabel('Result of add').fill('3');
    await page.getByLabel('Result of add').press('Tab');
    await page.keyboard.press('Enter');
    await page.locator('.reply .text', { hasText: 'three' }).waitFor();
    await page.locator('#log[aria-busy="false"]').waitFor();
    const sent = chat.upstream.requests.at(-1)?.body.messages.map(({ role, content }) => [role, content]);
    assert.deepEqual(sent, [
      ['user', 'count'],
      ['assistant', 'One **two**'],
      ['user', 'and then?'],
      ['assistant', ''],
      ['tool', '3'],
    ]);
    const stored = (await chat.read(id)).messages.map(({ content }) => content);
    assert.deepEqual(stored, ['count', 'One **two**', 'and then?', '', '3', 'three']);
    assert.deepEqual(routes, Array(3).fill('/v1/chat/completions'));
    assert.deepEqual(faults, []);
    await close();
  });

  test('the chat page stops a reply, and shows errors before and in the middle of one', async () => {
    const { page, close } = await openPage(browser, `${chat.url}/?api=v1`);
    chat.upstream.respond([thenSilence('One ')]);
    await page.locator('#message').fill('stop me');
    await page.locator('#message').press('Enter');
    await page.locator('.reply .text', { hasText: 'One' }).waitFor();
    await page.keyboard.press('Escape');
    await page.locator('.reply[data-state="stopped"]').waitFor();
    const id = new URL(page.url()).searchParams.get('c') ?? '';
    await until('the end of the turn', async () =>
      (await chat.read(id)).messages.some(({ status }) => status === 'cancelled'),
    );
    chat.upstream.respond([status(401)]);
    await ask(page, 'refused');
    const error = page.locator('.error');
    assert.match(await textOf(error), /^Request failed \(502\)\nThe model server failed/);
    assert.match(await textOf(page.locator('.reply .meta').last()), /upstream_error · request id: \S+/);
    assert.equal(await page.locator('#message').inputValue(), 'refused');
    chat.upstream.respond([thenReset('Half')]);
    await ask(page, 'break');
    assert.match(await textOf(error.last()), /The reply was interrupted.*\n.*\nRetry$/);
    await close();
  });
});
