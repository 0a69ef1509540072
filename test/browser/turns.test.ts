import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { ask, openPage, textOf, until } from './page.ts';
import { startUpstream, type Upstream } from './upstream.ts';

const chromium = provideChromium();

describe('the turns and conversations of the home page', { skip: chromium === undefined }, () => {
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

  async function stored(page: Page, query = '') {
    const answer = await server.get(
      `/api/conversations/${new URL(page.url()).searchParams.get('c')}${query}`,
    );
    return JSON.parse(await answer.text());
  }

  /** The questions and replies that are seen. */
  async function shown(page: Page): Promise<string[]> {
    const texts = await page.locator('#log .text:visible').allTextContents();
    return texts.map((text) => text.trim());
  }

  test('folds the reasoning, says that the model thinks, and resumes in the middle of it', async () => {
    const { page, close } = await openPage(browser, server.url);
    await page.locator('#message').fill('think');
    await page.locator('#message').press('Enter');
    await page.locator('.meta', { hasText: 'Thinking…' }).waitFor();
    await page.reload();
    const done = page.locator('.reply[data-state="done"]');
    for (const moment of ['resumed', 'reloaded']) {
      await done.waitFor();
      const reasoning = done.locator('details.reasoning');
      assert.equal(await reasoning.getAttribute('open'), null, moment);
      assert.equal(await reasoning.locator('summary').textContent(), 'Reasoning');
      assert.match(
        (await reasoning.locator('p').textContent()) ?? '',
        /^thought 30 thought 29 .* thought 1 $/,
      );
      assert.deepEqual(await shown(page), ['think', 'word 0 word 1 word 2']);
      await page.reload();
    }
    await close();
  });

  test('renames and pins conversations', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    await ask(page, 'About lions');
    const id = new URL(page.url()).searchParams.get('c');
    await page.locator('.actions .rename').click();
    await page.keyboard.type('Stripes');
    await page.keyboard.press('Enter');
    await page.locator('#chat-title', { hasText: 'Stripes' }).waitFor();
    await page.locator('.actions .pin').click();
    await page.locator('.actions .unpin').waitFor();
    assert.equal((await stored(page)).pinned, true);
    await page.locator('#renew').click();
    await ask(page, 'Something else');
    const first = page.locator('#conversations li').first();
    assert.match(await textOf(first), /^Stripes\n.*\nPinned$/s);
    await page.reload();
    await first.locator('.preview', { hasText: 'word 0 word 1' }).waitFor();
    assert.equal(await first.locator('a').getAttribute('data-id'), id);
    assert.deepEqual(faults, []);
    await close();
  });

  test('finds conversations by their titles and messages', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    await ask(page, 'About zebras');
    const id = new URL(page.url()).searchParams.get('c');
    await page.locator('#renew').click();
    await ask(page, 'Something else');
    const first = page.locator('#conversations li').first();
    await page.locator('#search').fill('ZEBRAS');
    await until(page, "document.querySelectorAll('#conversations li').length === 1");
    assert.equal(await first.locator('a').getAttribute('data-id'), id);
    await page.locator('#search').fill('no such words');
    await page.locator('#list-note', { hasText: 'Nothing found.' }).waitFor();
    await page.locator('#search').fill('');
    await until(page, "document.querySelectorAll('#conversations li').length > 1");
    assert.deepEqual(faults, []);
    await close();
  });

  test('makes the last reply anew, in its place', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    await ask(page, 'counter');
    const [, first] = await shown(page);
    await ask(page, 'other');
    assert.equal(await page.locator('.regenerate:visible').count(), 1);
    await ask(page, 'counter');
    await page.locator('.regenerate:visible').click();
    await page
      .locator('#log[aria-busy="false"] .reply:last-child[data-state="done"]', { hasText: /number [3-9]/ })
      .waitFor();
    const texts = await shown(page);
    assert.equal(texts.length, 6);
    assert.notEqual(texts.at(-1), first);
    const { messages } = await stored(page);
    assert.deepEqual(
      messages.map(({ content }: { content: string }) => content.trim()),
      texts,
    );
    assert.equal((await stored(page, '?include=superseded')).messages.length, 7);
    assert.deepEqual(faults, []);
    await close();
  });

  test('edits a question, which replaces it and what came after', async () => {
    const { page, close } = await openPage(browser, server.url);
    for (const message of ['one', 'two', 'three']) await ask(page, message);
    const second = page.locator('.question', { hasText: 'two' });
    await second.locator('.edit').click();
    await page.keyboard.press('Escape');
    assert.equal((await shown(page)).length, 6);
    await second.locator('.edit').click();
    await page.keyboard.press('ControlOrMeta+a');
    await page.keyboard.type('two and a half');
    await page.keyboard.press('Enter');
    await page.locator('#log[aria-busy="false"] .reply:last-child[data-state="done"]').waitFor();
    const expected = ['one', 'word 0 word 1 word 2', 'two and a half', 'word 0 word 1 word 2'];
    assert.deepEqual(await shown(page), expected);
    await page.reload();
    await page.locator('.reply').nth(1).waitFor();
    assert.deepEqual(await shown(page), expected);
    await close();
  });

  test('keeps the old reply when a new one cannot be made, and offers another try', async () => {
    const { page, close } = await openPage(browser, server.url);
    await ask(page, 'busy later');
    await page.locator('.regenerate:visible').click();
    await page.locator('.error .retry').waitFor();
    assert.match(await textOf(page.locator('.error')), /^Request failed \(503\)/);
    assert.deepEqual(await shown(page), ['busy later', 'word 0 word 1 word 2']);
    assert.equal((await stored(page)).messages.length, 2);
    await close();
  });
});
