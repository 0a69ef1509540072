import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { ask, openAlone, openPage, switchLanguage, textOf, until } from './page.ts';
import { startUpstream, type Upstream } from './upstream.ts';

const chromium = provideChromium();

/** The log is scrolled to its end. */
const BELOW = `(({ scrollHeight, scrollTop, clientHeight }) =>
  scrollHeight - scrollTop - clientHeight < 5)(document.getElementById('log'))`;

describe('what can be done with the replies of the home page', { skip: chromium === undefined }, () => {
  let server: TestServer;
  let upstream: Upstream;
  let browser: Browser;

  before(async () => {
    upstream = await startUpstream();
    [server, browser] = await Promise.all([
      startServer({ OPENAI_BASE_URL: upstream.baseUrl, CACHE_MAX_BYTES: '0', OPENAI_MAX_RETRIES: '0' }),
      sharedChromium(chromium ?? ''),
    ]);
  });

  after(async () => {
    await server?.stop();
    await upstream?.close();
  });

  async function stored(page: Page) {
    const id = new URL(page.url()).searchParams.get('c');
    const { messages } = JSON.parse(await (await server.get(`/api/conversations/${id}`)).text());
    return messages as { role: string; content: string; feedback?: object; tool_call_id?: string }[];
  }

  /** A conversation with these messages. @returns its id */
  async function imported(contents: readonly string[]): Promise<string> {
    const at = '2099-03-21T08:30:00.000Z';
    const messages = contents.map((content, n) => {
      const role = n % 2 === 0 ? 'user' : 'assistant';
      return { id: crypto.randomUUID(), role, content, timestamp: at, status: 'complete' };
    });
    const id = crypto.randomUUID();
    const body = { conversation_id: id, created_at: at, last_active: at, messages };
    const response = await server.post('/api/imports', body, { 'content-type': 'application/x-ndjson' });
    assert.equal(JSON.parse(await response.text()).messages, contents.length);
    return id;
  }

  test('are rated with the keyboard, with a comment, and the rating can be removed', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    const feedback = async () => (await stored(page))[1]?.feedback;
    const state = page.locator('.meta [role="status"]');
    const button = (name: string) => page.getByRole('button', { name, exact: true });
    await ask(page, 'rate me');
    assert.equal(await page.locator('.comment').isVisible(), false);
    await button('Not helpful').press('Enter');
    await state.getByText('Feedback saved').waitFor();
    assert.deepEqual(await feedback(), { rating: 'down', comment: null });
    await page.keyboard.press('Tab');
    assert.equal(
      await page.evaluate('document.activeElement.getAttribute("aria-label")'),
      'Comment (optional)',
    );
    await page.keyboard.type(' wrong city ');
    await page.keyboard.press('Enter');
    await page.locator('.comment').waitFor({ state: 'hidden' });
    assert.deepEqual(await feedback(), { rating: 'down', comment: 'wrong city' });
    await page.reload();
    await page.locator('.down[aria-pressed="true"]').waitFor();
    assert.equal(await page.locator('.comment input').inputValue(), 'wrong city');
    await switchLanguage(page, 'zh-CN');
    await button('有帮助').click();
    await page.locator('.up[aria-pressed="true"]').waitFor();
    assert.deepEqual(await feedback(), { rating: 'up', comment: 'wrong city' });
    assert.equal(await page.locator('.down').getAttribute('aria-pressed'), 'false');
    await button('有帮助').click();
    await state.getByText('反馈已撤销').waitFor();
    assert.equal(await feedback(), undefined);
    await page.route(/feedback/, (route) => route.abort());
    await button('有帮助').click();
    await state.getByText('反馈未能保存').waitFor();
    assert.equal(await page.locator('.up').getAttribute('aria-pressed'), 'false');
    assert.deepEqual(
      faults.filter((fault) => !fault.includes('ERR_FAILED')),
      [],
    );
    await close();
  });

  test('that call tools show the calls, take their results, and go on', async () => {
    const { page, close } = await openPage(browser, server.url);
    await ask(page, 'tools');
    const calls = page.locator('.reply .tool');
    assert.equal(
      await textOf(calls.first()),
      'Tool call: weather\n{\n  "city": "Ghent",\n  "id": 12345678901234567890\n}',
    );
    assert.equal(await textOf(calls.last()), 'Tool call: time\nno JSON');
    await page.reload();
    // A model server that refuses the results once.
    await page.getByLabel('Result of weather').fill('sunny');
    await page.getByLabel('Result of time').fill('busy');
    await page.getByRole('button', { name: 'Send results' }).click();
    await page.locator('.error .retry').waitFor();
    assert.equal(await page.getByLabel('Result of weather').inputValue(), 'sunny');
    assert.equal(await page.locator('#log > .tool:visible').count(), 0);
    await page.reload();
    // The results are stored; only their reply is missing.
    assert.equal(await textOf(page.locator('.error')), 'This message has no reply yet.\nRetry');
    assert.equal(await page.locator('.results').count(), 0);
    assert.deepEqual(
      (await stored(page)).map(({ role, content, tool_call_id }) => [role, content, tool_call_id]).slice(2),
      [
        ['tool', 'sunny', 'call_0'],
        ['tool', 'busy', 'call_1'],
      ],
    );
    await close();
  });

  test('results of tools are shown, and the reply to them', async () => {
    const viewport = { width: 500, height: 520 };
    const { page, faults, close } = await openPage(browser, server.url, { viewport });
    await ask(page, 'tools');
    await page.getByLabel('Result of weather').fill('rain');
    await page.getByRole('button', { name: 'Send results' }).click();
    for (const moment of ['sent', 'reloaded']) {
      await page.locator('.reply[data-state="done"]', { hasText: 'word 0 word 1 word 2' }).waitFor();
      assert.deepEqual(await page.locator('#log > .tool pre').allTextContents(), ['rain', ''], moment);
      assert.equal(await page.locator('.results').count(), 0, moment);
      await page.reload();
    }
    const sent = upstream.request?.messages.slice(1).map(({ role, content }) => [role, content ?? null]);
    assert.deepEqual(sent?.slice(1), [
      ['tool', 'rain'],
      ['tool', ''],
    ]);
    await page.locator('.reply[data-state="done"]').nth(1).waitFor();
    // Another question takes the place of the results.
    await ask(page, 'tools');
    await page.locator('.results').waitFor();
    await page.locator('.up:visible').last().click();
    await ask(page, 'busy');
    // A click in the log is no scroll, though the form that comes and goes moves it.
    await until(page, BELOW);
    await ask(page, 'never mind');
    await page.locator('.reply[data-state="done"]').nth(3).waitFor();
    assert.equal(await page.locator('.results').count(), 0);
    assert.equal(faults.length, 1);
    await close();
  });

  test('that are missing after a reload can be asked for', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    await ask(page, 'first');
    await ask(page, 'busy once');
    await page.locator('.error', { hasText: '503' }).waitFor();
    await page.reload();
    assert.equal(await textOf(page.locator('.error')), 'This message has no reply yet.\nRetry');
    await page.locator('.error .retry').click();
    await page.locator('.reply[data-state="done"]').nth(1).waitFor();
    assert.equal(await page.locator('.error').count(), 0);
    assert.deepEqual(
      (await stored(page)).map(({ content }) => content),
      ['first', 'word 0 word 1 word 2 ', 'busy once', 'word 0 word 1 word 2 '],
    );
    assert.deepEqual(faults.length, 1);
    await close();
  });

  test('are loaded page by page, the newest first, and what is read stays in its place', async () => {
    const id = await imported(Array.from({ length: 300 }, (_, n) => `message ${n}`));
    const { page, faults, close } = await openAlone(browser, server.url, {
      viewport: { width: 800, height: 600 },
    });
    await page.addInitScript(`addEventListener('DOMContentLoaded', () => {
      const log = document.getElementById('log');
      window.live = [];
      new MutationObserver(() => live.push(log.ariaLive)).observe(log, { childList: true });
    })`);
    const read: string[] = [];
    page.on('response', (response) => response.url().includes(`/${id}`) && read.push(response.url()));
    await page.goto(`${server.url}/?c=${id}`);
    await page.locator('.reply', { hasText: 'message 299' }).waitFor();
    await until(page, BELOW);
    assert.equal(read.length, 1);
    const texts = () => page.locator('#log .text').allTextContents();
    // Screen readers announce none of them.
    assert.equal(await page.evaluate('live.at(-1)'), 'off');
    await page.locator('#log[aria-live="polite"]').waitFor();
    const newest = (await texts()).map((text) => text.trim());
    assert.deepEqual(
      newest,
      Array.from(newest, (_, n) => `message ${300 - newest.length + n}`),
    );
    assert.ok(newest.length < 100);
    await page.locator('#log').hover();
    // The message at the top of the log, while older ones are added above it.
    await page.mouse.wheel(0, -100_000);
    const first = page.locator('#log .text', { hasText: newest[0] ?? '' });
    await until(page, `document.querySelectorAll('#log .text').length > ${newest.length}`);
    const { y = -1 } = (await first.boundingBox()) ?? {};
    assert.ok(y > 0 && y < 400, `it is at ${y}`);
    while ((await page.locator('.older').count()) > 0) await page.locator('#log').press('Home');
    const all = (await texts()).map((text) => text.trim());
    assert.deepEqual(
      all,
      Array.from({ length: 300 }, (_, n) => `message ${n}`),
    );
    assert.deepEqual(faults, []);
    await close();
  });

  test('are shown as they are when they are nested too deeply for the parser', async () => {
    const deep = `${'> '.repeat(5000)}bottom`;
    const id = await imported(['how deep?', deep]);
    const { page, faults, close } = await openPage(browser, `${server.url}/?c=${id}`);
    await page.locator('.reply[data-state="done"]').waitFor();
    assert.equal(await page.locator('.reply pre').textContent(), `${deep}\n`);
    assert.deepEqual(faults, []);
    await close();
  });

  test('the model field suggests the models of the model server', async () => {
    const { page, close } = await openPage(browser, server.url);
    await page.locator('#settings-toggle').click();
    await until(page, "document.querySelectorAll('#models option').length === 2");
    const values = "[...document.querySelector('[name=model]').list.options].map(({ value }) => value)";
    assert.deepEqual(await page.evaluate(values), ['small-model', 'large-model']);
    await close();
  });
});
