import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { ask, openAlone, openPage, switchLanguage, until } from './page.ts';
import { takePicture } from './picture.ts';
import { startUpstream, type Upstream } from './upstream.ts';

const chromium = provideChromium();

describe('the home page in a browser', { skip: chromium === undefined }, () => {
  /** With the demo model, as after a first start, which takes its time. */
  let demo: TestServer;
  let server: TestServer;
  let upstream: Upstream;
  let browser: Browser;

  before(async () => {
    upstream = await startUpstream();
    [demo, server, browser] = await Promise.all([
      startServer(),
      startServer({ OPENAI_BASE_URL: upstream.baseUrl }),
      sharedChromium(chromium ?? ''),
    ]);
  });

  after(async () => {
    await Promise.all([demo?.stop(), server?.stop()]);
    await upstream?.close();
  });

  test('loads without a fault and shows the version and how the parts are', async () => {
    const { page, faults, foreign, close } = await openPage(browser, demo.url);
    await page.locator('[data-part="service"][data-state="good"]', { hasText: 'ready' }).waitFor();
    await page.locator('[data-part="database"][data-state="good"]', { hasText: 'up' }).waitFor();
    await page.locator('[data-part="upstream"][data-state="demo"]', { hasText: 'demo model' }).waitFor();
    await page.locator('#model', { hasText: 'replies with canned text' }).waitFor();
    assert.equal(await page.locator('.version').textContent(), 'v0.0.0-test');
    assert.deepEqual(faults, []);
    assert.deepEqual(foreign, []);
    await close();
  });

  test('shows a reply while it grows, and then how it ended', async () => {
    const { page, faults, foreign, close } = await openPage(browser, demo.url);
    await page.evaluate(`
      globalThis.lengths = new Set();
      new MutationObserver(() => {
        const text = document.querySelector('.reply .text');
        if (text && text.textContent !== '') globalThis.lengths.add(text.textContent.length);
      }).observe(document.getElementById('log'), { subtree: true, childList: true, characterData: true });
    `);
    await ask(page, 'How does a reply grow?');
    const lengths = Number(await page.evaluate('globalThis.lengths.size'));
    assert.ok(lengths >= 2, `the text was seen at ${lengths} length`);
    const meta = await page.locator('.reply .meta').textContent();
    assert.match(meta ?? '', /^complete · \S+ · \d+ \+ \d+ tokens · /);
    assert.deepEqual(faults, []);
    assert.deepEqual(foreign, []);
    await close();
  });

  test('continues the same conversation until a new one is started', async () => {
    const { page, close } = await openPage(browser, server.url);
    const sent: Record<string, unknown>[] = [];
    page.on('request', (request) => {
      if (request.method() === 'POST') sent.push(request.postDataJSON());
    });
    await ask(page, 'first question');
    await ask(page, 'second question');
    assert.equal(sent[0]?.conversation_id, undefined);
    const id = sent[1]?.conversation_id;
    const answer = await server.get(`/api/conversations/${id}`);
    const stored: { messages: { role: string; content: string }[] } = JSON.parse(await answer.text());
    const questions = stored.messages.filter(({ role }) => role === 'user');
    assert.deepEqual(
      questions.map(({ content }) => content),
      ['first question', 'second question'],
    );
    assert.equal(await page.locator('#record').getAttribute('href'), `./api/conversations/${id}`);
    await page.locator('#renew').click();
    assert.equal(await page.locator('.question').count(), 0);
    await ask(page, 'third question');
    assert.equal(sent[2]?.conversation_id, undefined);
    await close();
  });

  test('shows what people write as text, whatever it looks like', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    const message = '  <img src=x onerror=alert(1)>\n<b>2</b> 😀 **a**';
    await ask(page, message);
    assert.equal(await page.locator('.question .text').textContent(), message);
    assert.equal(await page.locator('#log img, #log b').count(), 0);
    assert.deepEqual(faults, []);
    await close();
  });

  test('sends with Enter, but not with Shift, not in the middle of a composition, and nothing blank', async () => {
    const { page, close } = await openPage(browser, server.url);
    const box = page.locator('#message');
    await box.fill(' \n ');
    await box.press('Enter');
    await box.fill('ni');
    await box.press('Shift+Enter');
    await page.evaluate(`
      for (const options of [{ isComposing: true }, { keyCode: 229 }]) {
        const event = new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true, ...options });
        document.getElementById('message').dispatchEvent(event);
      }
    `);
    assert.equal(await box.inputValue(), 'ni\n');
    assert.equal(await page.locator('.question').count(), 0);
    await box.press('Enter');
    assert.equal(await page.locator('.question').count(), 1);
    assert.equal(await box.inputValue(), '');
    await close();
  });

  test('speaks the language of the browser, and the chosen one from then on', async () => {
    const { page, close } = await openPage(browser, server.url, { locale: 'zh-CN' });
    await page.locator('html[lang="zh-CN"]').waitFor();
    await page.locator('[data-part="database"]', { hasText: '数据库 正常' }).waitFor();
    await ask(page, 'Hello');
    await page.locator('.meta', { hasText: '回复完整' }).waitFor();
    await switchLanguage(page, 'en');
    await page.locator('.meta', { hasText: 'complete' }).waitFor();
    assert.equal(await page.locator('#message').getAttribute('placeholder'), 'Write a message…');
    await page.reload();
    await page.locator('[data-language="en"][aria-pressed="true"]').waitFor();
    assert.equal(await page.locator('#send').textContent(), 'Send');
    assert.doesNotMatch((await page.locator('main').textContent()) ?? '', /\p{Script=Han}/u);
    await close();
  });

  test('can be used with the keyboard alone', async () => {
    const { page, close } = await openPage(browser, server.url);
    const focused = () => page.evaluate('document.activeElement.id || document.activeElement.textContent');
    await page.keyboard.press('Tab');
    assert.equal(await focused(), 'Skip to the message box');
    await page.keyboard.press('Enter');
    assert.equal(await focused(), 'message');
    await page.keyboard.type('Hello');
    await page.keyboard.press('Tab');
    assert.equal(await focused(), 'attach');
    await page.keyboard.press('Tab');
    assert.equal(await focused(), 'send');
    await page.keyboard.press('Enter');
    await page.locator('#log[aria-busy="false"]').waitFor();
    assert.equal(await focused(), 'message');
    const passed: unknown[] = [];
    for (let i = 0; i < 60 && passed.at(-1) !== '中文'; i += 1) {
      await page.keyboard.press('Shift+Tab');
      passed.push(await focused());
    }
    // One link for each conversation of the tests above.
    const controls = passed.filter((name) => !/\d:\d\d [AP]M/.test(String(name)));
    assert.deepEqual(controls, [
      'Not helpful',
      'Helpful',
      'Regenerate',
      'Copy',
      'Edit',
      'log',
      'settings-toggle',
      'record',
      'Delete',
      'Pin',
      'Rename',
      'search',
      'renew',
      'English',
      '中文',
    ]);
    await page.keyboard.press('Space');
    await page.locator('html[lang="zh-CN"]').waitFor();
    await close();
  });

  test('has no sideways scrolling on a phone, however long a word is', async () => {
    const viewport = { width: 360, height: 740 };
    const { page, close } = await openPage(browser, server.url, { viewport });
    await ask(page, 'w'.repeat(300));
    for (const language of ['zh-CN', 'en']) {
      await switchLanguage(page, language);
      assert.equal(await page.evaluate('document.documentElement.scrollWidth'), 360);
      assert.equal(await page.evaluate("document.getElementById('log').scrollLeft = 99"), 99);
      assert.equal(await page.evaluate("document.getElementById('log').scrollLeft"), 0);
    }
    await close();
  });

  test('follows a long reply to its end, unless the reader has scrolled back', async () => {
    const viewport = { width: 900, height: 500 };
    const { page, close } = await openPage(browser, server.url, { viewport });
    const below = `(() => {
      const { scrollHeight, scrollTop, clientHeight } = document.getElementById('log');
      return scrollHeight - scrollTop - clientHeight;
    })()`;
    await ask(page, 'line\n'.repeat(40));
    await until(page, `${below} < 5`);
    await page.locator('#message').fill('endless');
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'word 10' }).waitFor();
    await until(page, `${below} < 5`);
    await page.locator('#log').hover();
    await page.mouse.wheel(0, -300);
    await until(page, `${below} > 200`);
    const length = "document.getElementById('log').textContent.length";
    await until(page, `${length} > ${Number(await page.evaluate(length)) + 100}`);
    assert.ok(Number(await page.evaluate(below)) > 200);
    await page.locator('#stop').click();
    await close();
  });

  test('copies a command that works', async () => {
    const permissions = ['clipboard-read', 'clipboard-write'];
    const { page, close } = await openAlone(browser, server.url, { permissions });
    await page.locator('[data-copy="stream"]').click();
    await page.locator('[data-copy="stream"]', { hasText: 'Copied' }).waitFor();
    const command = String(await page.evaluate('navigator.clipboard.readText()'));
    const found = /^curl -sN (\S+) \\\n {2}-H '(.+): (.+)' \\\n {2}-d '(.+)'$/.exec(command);
    assert.ok(found, command);
    const [, url = '', name = '', value = '', body = ''] = found;
    const response = await fetch(url, { method: 'POST', headers: { [name]: value }, body });
    assert.equal(response.status, 200);
    assert.match(await response.text(), /event: done/);
    await close();
  });

  if (process.env.UPDATE_SCREENSHOT === '1')
    test('sits for its picture in the README', () => takePicture(chromium ?? ''));
});
