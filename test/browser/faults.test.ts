import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page, Request } from 'playwright-core';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { ask, openAlone, openPage, switchLanguage, textOf } from './page.ts';
import { PAUSE, startUpstream, type Upstream } from './upstream.ts';

const chromium = provideChromium();

const LONG = 'a long one';
const ANSWER = Array.from({ length: 30 }, (_, n) => `part ${n} `)
  .join('')
  .trim();

describe('the home page when something goes wrong', { skip: chromium === undefined }, () => {
  let server: TestServer;
  let upstream: Upstream;
  let browser: Browser;
  let proxy: FaultProxy;

  before(async () => {
    upstream = await startUpstream({ [LONG]: ANSWER.replace('part 10', `${PAUSE}$&`) });
    const limits = { OPENAI_MAX_RETRIES: '0', MESSAGE_MAX_CHARS: '40', CACHE_MAX_BYTES: '0' };
    [server, browser] = await Promise.all([
      startServer({ OPENAI_BASE_URL: upstream.baseUrl, ...limits }),
      sharedChromium(chromium ?? ''),
    ]);
    proxy = await startFaultProxy(Number(new URL(server.url).port));
  });

  /** The page behind the proxy, and what it sends for the chat. */
  async function openThroughProxy(open = openPage) {
    const opened = await open(browser, `http://127.0.0.1:${proxy.port}`);
    await opened.page.locator('[data-part="upstream"]:not([data-state="wait"])').waitFor();
    const sent: Request[] = [];
    opened.page.on('request', (request) => {
      if (request.url().includes('/api/chat-stream')) sent.push(request);
    });
    return { ...opened, sent };
  }

  async function storedMessages(page: Page) {
    const path = ((await page.locator('#record').getAttribute('href')) ?? '').slice(1);
    const answer = await server.get(path);
    const { messages }: { messages: { content: string; status: string }[] } = JSON.parse(await answer.text());
    return messages;
  }

  after(async () => {
    await proxy?.close();
    await server?.stop();
    await upstream?.close();
  });

  test('shows a refused message with its request id and gives it back for another try', async () => {
    const { page, close } = await openPage(browser, server.url);
    const answer = page.waitForResponse(/chat-stream/);
    const message = 'too long '.repeat(9);
    await ask(page, message);
    const requestId = (await answer).headers()['x-request-id'] ?? 'none';
    assert.match(
      (await page.locator('.error').textContent()) ?? '',
      /Request failed \(400\)The request is not valid\.message: must be at most 40/,
    );
    assert.equal(await page.locator('.meta').textContent(), `validation · request id: ${requestId}`);
    assert.equal(await page.locator('#message').inputValue(), message);
    await ask(page, 'shorter');
    await page.locator('.reply[data-state="done"]', { hasText: 'word 0 word 1 word 2' }).waitFor();
    await close();
  });

  test('says when to come back to a model server that is busy', async () => {
    const { page, close } = await openPage(browser, server.url, { locale: 'zh-CN' });
    await ask(page, 'busy');
    assert.match((await page.locator('.error').textContent()) ?? '', /请求失败（503）/);
    assert.match(
      (await page.locator('.meta').textContent()) ?? '',
      /upstream_busy.*请求 ID.*请在 \d+ 秒后重试/,
    );
    await close();
  });

  test('shows a fault before the first text alike, as a status and as an event, in the language of the page', async () => {
    const { page, sent, close } = await openThroughProxy();
    for (const message of ['busy', 'late']) {
      await ask(page, message);
      const shown = page.locator('.reply').last();
      const text = 'Request failed (503)\nThe model server is busy; try again later.';
      assert.equal(await textOf(shown.locator('.error')), text);
      assert.equal(await page.locator('#message').inputValue(), message);
    }
    const statuses = await Promise.all(sent.map(async (request) => (await request.response())?.status()));
    assert.deepEqual(statuses, [503, 200]);
    await switchLanguage(page, 'zh-CN');
    for (const error of await page.locator('.error').all())
      assert.equal(await textOf(error), '请求失败（503）\n模型服务繁忙，请稍后重试。');
    await page.locator('#message').press('Enter');
    await page.locator('#log[aria-busy="true"]').waitFor();
    await page.locator('#log[aria-busy="false"]').waitFor();
    // The question that is repeated is shown once, as it is stored.
    assert.deepEqual(await page.locator('.question .text').allTextContents(), ['busy', 'late']);
    assert.equal(await page.locator('.error').count(), 2);
    const keys = await Promise.all(sent.map((request) => request.headerValue('idempotency-key')));
    assert.equal(keys[2], keys[1]);
    assert.deepEqual(
      (await storedMessages(page)).map(({ content }) => content),
      ['late'],
    );
    await close();
  });

  test('asks again at a button for a reply that broke off, and stores the question once', async () => {
    const { page, close } = await openPage(browser, server.url, { locale: 'zh-CN' });
    await ask(page, 'broken once');
    const shown = page.locator('.reply');
    assert.equal(await textOf(shown.locator('.error')), '回复中断（502）\n模型服务提前结束了回复。\n重试');
    await shown.locator('button', { hasText: '重试' }).click();
    await page.locator('.reply[data-state="done"]', { hasText: /^助手word 0 word 1 word 2/ }).waitFor();
    assert.deepEqual(
      (await storedMessages(page)).map(({ content }) => content),
      ['broken once', 'word 0 word 1 word 2 '],
    );
    await ask(page, 'broken');
    await ask(page, 'other');
    assert.equal(await page.locator('button.retry').count(), 0);
    await close();
  });

  test('keeps what was said before a reply broke off, and says that it did', async () => {
    const { page, close } = await openPage(browser, server.url);
    await ask(page, 'broken');
    const reply = page.locator('.reply[data-state="failed"]');
    assert.match((await reply.locator('.text').textContent()) ?? '', /^word 0/);
    assert.match((await reply.locator('.error').textContent()) ?? '', /The reply was interrupted \(502\)/);
    assert.match((await reply.locator('.meta').textContent()) ?? '', /upstream_incomplete.*request id: \S+/);
    assert.equal(await page.locator('#message').inputValue(), '');
    await close();
  });

  test('stops a reply, keeps its text, and is immediately usable', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    await page.locator('#message').fill('endless');
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'word 3' }).waitFor();
    await page.locator('#stop').click();
    const stopped = page.locator('.reply[data-state="stopped"]');
    assert.match((await stopped.locator('.meta').textContent()) ?? '', /stopped; the text so far is saved/);
    assert.equal(await page.evaluate('document.activeElement.id'), 'message');
    const [, said] = await storedMessages(page);
    assert.equal(said?.status, 'cancelled');
    assert.equal((await stopped.locator('.text').textContent())?.trim(), said?.content.trim());
    await ask(page, 'more');
    await page.locator('.reply[data-state="done"]').waitFor();
    assert.deepEqual(faults, []);
    await close();
  });

  test('only stops reading where the server cannot be notified', async () => {
    const { page, close } = await openPage(browser, server.url, { locale: 'zh-CN' });
    await page.locator('#message').fill('endless');
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'word 3' }).waitFor();
    await page.route(/chat-stream\/./, (route) => route.abort());
    await page.locator('#stop').click();
    await page.locator('.reply[data-state="stopped"] .meta', { hasText: '未能通知服务端' }).waitFor();
    await close();
  });

  test('a new conversation in the middle of a reply leaves nothing of the old one', async () => {
    const { page, close } = await openPage(browser, server.url);
    await page.locator('#message').fill('endless');
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'word 3' }).waitFor();
    await page.locator('#renew').click();
    await page.locator('#send').waitFor();
    assert.equal(await page.locator('.reply').count(), 0);
    assert.equal(await page.locator('#record').isVisible(), false);
    await page.locator('.sample').first().click();
    await page.locator('.reply[data-state="done"]').waitFor();
    await close();
  });

  test('reconnects by itself after a lost connection, and shows the reply once', async () => {
    const { page, sent, close } = await openThroughProxy();
    await page.locator('#message').fill(LONG);
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'part 9 ' }).waitFor();
    proxy.cut();
    upstream.resume();
    await page.locator('.meta', { hasText: /^Connection lost, reconnecting in [34] s…$/ }).waitFor();
    await page.locator('.reply[data-state="done"]').waitFor();
    assert.equal(await page.locator('.reply .text').textContent(), ANSWER);
    assert.deepEqual(
      (await storedMessages(page)).map(({ content }) => content),
      [LONG, ANSWER],
    );
    assert.deepEqual(
      sent.map((request) => request.method()),
      ['POST', 'GET'],
    );
    const position = (await sent[1]?.headerValue('last-event-id')) ?? '';
    assert.ok(Number(position.split(':')[1]) >= 'part 9 '.length * 9, position);
    await close();
  });

  test('resumes a reply by its button after a long outage of the connection', async () => {
    const { page, close } = await openThroughProxy(openAlone);
    await page.clock.install();
    await page.locator('#message').fill(LONG);
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'part 2 ' }).waitFor();
    proxy.refuse();
    proxy.cut();
    upstream.resume();
    for (const wait of [/in [34] s/, /in [678] s/, /in 1[2345] s/]) {
      await page.locator('.meta', { hasText: wait }).waitFor();
      await page.clock.fastForward(16_000);
    }
    await page.locator('.error', { hasText: 'lost before the reply was complete' }).waitFor();
    proxy.accept();
    await page.locator('.error button', { hasText: 'Resume' }).click();
    assert.equal(await page.evaluate('document.activeElement.id'), 'message');
    await page.locator('.reply[data-state="done"]').waitFor();
    assert.equal(await page.locator('.reply .text').textContent(), ANSWER);
    assert.equal(await page.locator('.error').count(), 0);
    await close();
  });

  test('asks a question once, however often it has to be sent', async () => {
    const { page, sent, close } = await openThroughProxy();
    // Over a connection that is left, or a new one, the browser would send the request again and the page not know.
    proxy.watch((piece, way) => {
      if (way !== 'toClient' || !piece.includes('text/event-stream')) return undefined;
      proxy.refuse();
      proxy.cut();
      return 0;
    });
    await page.locator('#message').fill('once');
    await page.locator('#message').press('Enter');
    await page.locator('.meta', { hasText: 'reconnecting' }).waitFor();
    proxy.accept();
    await page.locator('.reply[data-state="done"]', { hasText: 'word 0 word 1 word 2' }).waitFor();
    const keys = await Promise.all(sent.map((request) => request.headerValue('idempotency-key')));
    assert.equal(keys.length, 2);
    assert.ok(keys[0]);
    assert.equal(keys[1], keys[0]);
    assert.equal((await storedMessages(page)).length, 2);
    await ask(page, 'once');
    assert.notEqual(await sent.at(-1)?.headerValue('idempotency-key'), keys[0]);
    assert.equal((await storedMessages(page)).length, 4);
    await close();
  });

  test('sends a question that was not answered with its key again, so that it is stored once', async () => {
    const { page, close } = await openPage(browser, server.url);
    await ask(page, 'first');
    await ask(page, 'busy');
    await page.locator('.error', { hasText: '503' }).waitFor();
    const repeated = page.waitForResponse(/chat-stream/);
    await page.locator('#message').press('Enter');
    await repeated;
    await page.locator('.error', { hasText: '503' }).waitFor();
    const stored = await storedMessages(page);
    assert.equal(stored.filter(({ content }) => content === 'busy').length, 1);
    await close();
  });

  test('shows that the server does not answer any more', async () => {
    const { page, close } = await openAlone(browser, server.url);
    await page.clock.install();
    await page
      .locator('[data-part="upstream"][data-state="good"], [data-part="upstream"][data-state="bad"]')
      .waitFor();
    await page.context().setOffline(true);
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))");
    await page.locator('[data-part="service"][data-state="bad"]', { hasText: 'no response' }).waitFor();
    await page.locator('#message').fill('Hello');
    await page.locator('#message').press('Enter');
    for (const wait of [/in 2 s/, /in 3 s/, /in [45] s/]) {
      await page.locator('.meta', { hasText: wait }).waitFor();
      await page.clock.fastForward(6000);
    }
    await page.locator('.error', { hasText: 'Cannot reach the server' }).waitFor();
    assert.equal(await page.locator('#message').inputValue(), 'Hello');
    await close();
  });
});
