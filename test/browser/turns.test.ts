import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { crc32, deflateSync } from 'node:zlib';
import type { Browser, Page } from 'playwright-core';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { ask, openPage, textOf, until } from './page.ts';
import { startUpstream, type Upstream } from './upstream.ts';

const chromium = provideChromium();

/** A PNG of one red pixel. */
function redPixel(): Buffer {
  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
    const frame = Buffer.alloc(8);
    frame.writeUInt32BE(data.length, 0);
    frame.writeUInt32BE(crc32(body), 4);
    return Buffer.concat([frame.subarray(0, 4), body, frame.subarray(4)]);
  };
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const header = Buffer.from([0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0]);
  const data = deflateSync(Buffer.from([0, 255, 0, 0]));
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', data),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

const PIXEL = { name: 'red.png', mimeType: 'image/png', buffer: redPixel() };

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

  test('applies model, system prompt and parameters to a conversation, and keeps them with it', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    await page.locator('#settings-toggle').click();
    await page.locator('[name="system"]').fill('Be brief.');
    await page.locator('[name="temperature"]').fill('0.3');
    await page.locator('[name="max_tokens"]').fill('99');
    await page.locator('[name="model"]').fill('other-model');
    await ask(page, 'Hello');
    const expected = { model: 'other-model', temperature: 0.3, max_tokens: 99 };
    const first = upstream.request;
    assert.deepEqual({ ...first, ...expected }, first);
    assert.deepEqual(first?.messages[0], { role: 'system', content: 'Be brief.' });
    await page.reload();
    await page.locator('.reply[data-state="done"]').waitFor();
    assert.equal(await page.locator('[name="system"]').inputValue(), 'Be brief.');
    await page.locator('#settings-toggle').click();
    await page.locator('[name="temperature"]').fill('');
    await page.locator('[name="max_tokens"]').fill('50');
    await page.locator('[name="model"]').focus();
    await page.locator('#settings-state', { hasText: 'Saved' }).waitFor();
    await ask(page, 'Again');
    assert.equal(upstream.request?.temperature, undefined);
    assert.equal(upstream.request?.max_tokens, 50);
    assert.equal(upstream.request?.model, 'other-model');
    await page.locator('#renew').click();
    assert.equal(await page.locator('[name="system"]').inputValue(), '');
    assert.deepEqual(faults, []);
    await close();
  });

  test('sends images that are chosen, pasted and dropped, and shows them after a reload', async () => {
    const { page, faults, foreign, close } = await openPage(browser, server.url);
    await page.locator('#file').setInputFiles(PIXEL);
    await page.locator('.thumbnail img').waitFor();
    for (const [event, target] of [
      ['paste', 'message'],
      ['drop', 'log'],
    ])
      await page.evaluate(`{
        const bytes = Uint8Array.from(atob('${PIXEL.buffer.toString('base64')}'), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], 'x.png', { type: 'image/png' }));
        const event = '${event}' === 'paste'
          ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })
          : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
        document.getElementById('${target}').dispatchEvent(event);
      }`);
    await page.locator('.thumbnail').nth(2).waitFor();
    await page.locator('.thumbnail button').first().click();
    await ask(page, 'What is this?');
    const content = upstream.request?.messages.at(-1)?.content;
    assert.ok(typeof content === 'object');
    const urls = content.flatMap((part) => part.image_url?.url ?? []);
    assert.deepEqual(urls, Array(2).fill(`data:image/png;base64,${PIXEL.buffer.toString('base64')}`));
    for (const moment of ['sent', 'reloaded']) {
      assert.equal(await page.locator('.question img').count(), 2, moment);
      await until(
        page,
        "[...document.querySelectorAll('.question img')].every((image) => image.naturalWidth === 1)",
      );
      assert.deepEqual(await shown(page), ['What is this?', 'word 0 word 1 word 2']);
      await page.reload();
      await page.locator('.reply[data-state="done"]').waitFor();
    }
    assert.equal(await page.locator('.thumbnail').count(), 0);
    assert.deepEqual([faults, foreign], [[], []]);
    await close();
  });

  test('takes images by what they are, pasted text as text, and stays where it is when a file is dropped', async () => {
    const { page, close } = await openPage(browser, server.url);
    const hint = page.locator('#hint');
    const give = (event: string, name: string, type: string, text = '') =>
      page.evaluate(`{
        const bytes = Uint8Array.from(atob('${PIXEL.buffer.toString('base64')}'), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes.slice(${name === 'x.txt' ? 20 : 0})], '${name}', { type: '${type}' }));
        if ('${text}') data.setData('text/plain', '${text}');
        const options = { bubbles: true, cancelable: true };
        const event = '${event}' === 'paste'
          ? new ClipboardEvent('paste', { ...options, clipboardData: data })
          : new DragEvent('drop', { ...options, dataTransfer: data });
        document.getElementById('message').dispatchEvent(event);
        event.defaultPrevented;
      }`);
    assert.equal(await give('paste', 'cells.png', 'image/png', 'a cell'), false);
    assert.equal(await give('drop', 'x.txt', 'text/plain'), true);
    await hint.getByText('Only images that this browser can read').waitFor();
    assert.equal(await page.locator('.thumbnail').count(), 0);
    await give('drop', 'really-a-png.jpg', 'image/jpeg');
    await page.locator('.thumbnail').waitFor();
    await ask(page, 'What is this?');
    await page.locator('.reply[data-state="done"]').waitFor();
    const content = upstream.request?.messages.at(-1)?.content;
    assert.match(JSON.stringify(content), /"url":"data:image\/png;base64,/);
    await close();
  });

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

  test('regenerates the last reply in its place', async () => {
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
    await until(page, "document.querySelectorAll('.question').length === 2");
    await page.locator('#log[aria-busy="false"] .reply:last-child[data-state="done"]').waitFor();
    const expected = ['one', 'word 0 word 1 word 2', 'two and a half', 'word 0 word 1 word 2'];
    assert.deepEqual(await shown(page), expected);
    await page.reload();
    await page.locator('.reply').nth(1).waitFor();
    assert.deepEqual(await shown(page), expected);
    await close();
  });

  test('shows system messages folded, not as replies', async () => {
    const sent = [
      { role: 'user', content: 'one' },
      { role: 'assistant', content: 'two' },
      { role: 'system', content: 'Be rude.' },
      { role: 'user', content: 'three' },
    ];
    const response = await server.post('/v1/chat/completions', { messages: sent });
    await response.text();
    const id = response.headers.get('x-conversation-id');
    const { page, faults, close } = await openPage(browser, `${server.url}/?c=${id}`);
    await page.locator('.reply').nth(1).waitFor();
    assert.deepEqual(await shown(page), ['one', 'two', 'three', 'word 0 word 1 word 2']);
    assert.equal(await page.locator('#log details.tool').textContent(), 'System promptBe rude.');
    assert.deepEqual(faults, []);
    await close();
  });

  test('keeps the old reply when the new one fails, and offers a retry', async () => {
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
