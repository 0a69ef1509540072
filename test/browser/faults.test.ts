import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { launchChromium, provideChromium } from '../support/chromium.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { ask, openPage } from './page.ts';
import { startUpstream, type Upstream } from './upstream.ts';

const chromium = provideChromium();

describe('the home page when something goes wrong', { skip: chromium === undefined }, () => {
  let server: TestServer;
  let upstream: Upstream;
  let browser: Browser;

  before(async () => {
    upstream = await startUpstream();
    const env = { OPENAI_BASE_URL: upstream.baseUrl, OPENAI_MAX_RETRIES: '0', MESSAGE_MAX_CHARS: '40' };
    [server, browser] = await Promise.all([startServer(env), launchChromium(chromium ?? '')]);
  });

  after(async () => {
    await browser?.close();
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
      /The request failed \(400\)message: must be at most 40/,
    );
    assert.equal(await page.locator('.meta').textContent(), `validationrequest id: ${requestId}`);
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

  test('keeps what was said before a reply broke off, and says that it did', async () => {
    const { page, close } = await openPage(browser, server.url);
    await ask(page, 'broken');
    const reply = page.locator('.reply[data-state="failed"]');
    assert.match((await reply.locator('.text').textContent()) ?? '', /^word 0/);
    assert.match((await reply.locator('.error').textContent()) ?? '', /The reply broke off \(502\)/);
    assert.match((await reply.locator('.meta').textContent()) ?? '', /upstream_incomplete.*request id: \S+/);
    assert.equal(await page.locator('#message').inputValue(), '');
    await close();
  });

  test('stops reading when asked to, and can be used at once', async () => {
    const { page, close } = await openPage(browser, server.url);
    await page.locator('#message').fill('endless');
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'word 3' }).waitFor();
    await page.locator('#stop').click();
    const stopped = page.locator('.reply[data-state="stopped"]');
    assert.match((await stopped.locator('.meta').textContent()) ?? '', /You stopped reading/);
    assert.equal(await page.evaluate('document.activeElement.id'), 'message');
    await ask(page, 'more');
    await page.locator('.reply[data-state="done"]').waitFor();
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

  test('shows that the server does not answer any more', async () => {
    const { page, close } = await openPage(browser, server.url);
    await page
      .locator('[data-part="upstream"][data-state="good"], [data-part="upstream"][data-state="bad"]')
      .waitFor();
    await page.context().setOffline(true);
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))");
    await page.locator('[data-part="service"][data-state="bad"]', { hasText: 'no answer' }).waitFor();
    await ask(page, 'Hello');
    assert.match((await page.locator('.error').textContent()) ?? '', /cannot be reached/);
    assert.equal(await page.locator('#message').inputValue(), 'Hello');
    await close();
  });
});
