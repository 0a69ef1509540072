import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text as readText } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Browser, Page } from 'playwright-core';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { until } from './page.ts';

const chromium = provideChromium();

const EXAMPLES = new URL('../../examples/', import.meta.url);
const TYPES: Readonly<Record<string, string>> = { '/index.html': 'text/html', '/chat.js': 'text/javascript' };
const PIXEL =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

/** Serves examples/chat from another origin than that of the API. */
async function serveExample(): Promise<Server> {
  const server = createServer(async (request, response) => {
    const path = request.url?.split('?')[0] ?? '';
    if (TYPES[path] === undefined) return response.writeHead(404).end();
    response.setHeader('content-type', TYPES[path]);
    return response.end(await readFile(new URL(`chat${path}`, EXAMPLES)));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

describe('the example applications', { skip: chromium === undefined }, () => {
  let server: TestServer;
  let site: Server;
  let proxy: FaultProxy;
  let browser: Browser;

  before(async () => {
    [server, site, browser] = await Promise.all([
      startServer({ CACHE_MAX_BYTES: '0' }),
      serveExample(),
      sharedChromium(chromium ?? ''),
    ]);
    proxy = await startFaultProxy(Number(new URL(server.url).port));
  });

  after(async () => {
    await proxy?.close();
    site?.closeAllConnections();
    site?.close();
    await server?.stop();
  });

  async function openExample() {
    const context = await browser.newContext();
    const page = await context.newPage();
    const faults: string[] = [];
    page.on('pageerror', (error) => faults.push(String(error)));
    const { port } = site.address() as AddressInfo;
    await page.goto(`http://127.0.0.1:${port}/index.html?api=http://127.0.0.1:${proxy.port}`);
    return { page, faults, close: () => context.close() };
  }

  async function send(page: Page, message: string): Promise<void> {
    await page.locator('#message').fill(message);
    await page.locator('#message').press('Enter');
  }

  const finished = (page: Page, reason: string) => page.locator('#state', { hasText: reason }).waitFor();
  const roles = (page: Page) =>
    page.evaluate("[...document.querySelectorAll('li')].map((item) => item.dataset.role)");

  test('streams a reply across a broken connection and a reload', async () => {
    const { page, faults, close } = await openExample();
    await send(page, 'Hello from the example');
    await page.locator('li', { hasText: 'Demo model' }).waitFor();
    proxy.cut();
    await finished(page, 'Reconnecting');
    await finished(page, 'Receiving');
    await page.reload();
    await finished(page, 'stop');
    assert.deepEqual(await roles(page), ['user', 'assistant']);
    const id = await page.evaluate("sessionStorage.getItem('conversation')");
    const { messages } = JSON.parse(await (await server.get(`/api/conversations/${id}`)).text());
    assert.equal(messages.length, 2);
    const shown = (await page.locator('li').last().textContent()) ?? '';
    assert.ok(shown.startsWith(messages[1].content), shown);
    assert.deepEqual(faults, []);
    await close();
  });

  test('stops a reply', async () => {
    const { page, close } = await openExample();
    await send(page, 'Stop me');
    await page.locator('li', { hasText: 'Demo' }).waitFor();
    await page.locator('#stop').click();
    await finished(page, 'cancelled');
    await close();
  });

  test('calls a tool and sends its result', async () => {
    const { page, faults, close } = await openExample();
    await send(page, 'What is the weather in Paris?');
    await finished(page, 'stop');
    assert.deepEqual(await roles(page), ['user', 'assistant', 'tool', 'assistant']);
    const texts = await page.locator('li').allTextContents();
    assert.equal(texts[1], 'get_weather({"city":"Paris"})');
    assert.equal(texts[2], 'Paris: 21 °C, sunny');
    assert.match(texts[3] ?? '', /Paris: 21 °C, sunny/);
    assert.deepEqual(faults, []);
    await close();
  });

  test('sends an image', async () => {
    const { page, close } = await openExample();
    const buffer = Buffer.from(PIXEL, 'base64');
    await page.locator('#image').setInputFiles({ name: 'pixel.png', mimeType: 'image/png', buffer });
    await send(page, 'Describe it');
    await finished(page, 'stop');
    await page.locator('li', { hasText: 'received **1** image' }).waitFor();
    await until(page, "document.querySelector('li img').naturalWidth === 1");
    await close();
  });

  test('regenerates a reply and edits a question', async () => {
    const { page, faults, close } = await openExample();
    await send(page, 'First wording');
    await finished(page, 'stop');
    const replyId = () => page.locator('li').last().getAttribute('data-id');
    const first = await replyId();
    await page.locator('button', { hasText: 'Regenerate' }).click();
    await finished(page, 'Receiving');
    await finished(page, 'stop');
    assert.notEqual(await replyId(), first);
    assert.deepEqual(await roles(page), ['user', 'assistant']);
    page.once('dialog', (dialog) => dialog.accept('Second wording'));
    await page.locator('button', { hasText: 'Edit' }).click();
    await page.locator('li', { hasText: 'You said: “Second wording”' }).waitFor();
    await finished(page, 'stop');
    assert.deepEqual(await roles(page), ['user', 'assistant']);
    assert.match((await page.locator('li').first().textContent()) ?? '', /^Second wording/);
    assert.deepEqual(faults, []);
    await close();
  });

  test('the Node script streams across a broken connection, and stops at an interrupt', async () => {
    const script = fileURLToPath(new URL('stream.mjs', EXAMPLES));
    const run = () => {
      const env = { ...process.env, API_URL: `http://127.0.0.1:${proxy.port}` };
      const child = spawn(process.execPath, [script, 'Hello from Node'], {
        env,
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      return { child, output: readText(child.stdout), firstText: once(child.stdout, 'data') };
    };
    const resumed = run();
    await resumed.firstText;
    proxy.cut();
    const output = await resumed.output;
    assert.match(output, /^Demo model\n[\s\S]*“Hello from Node”[\s\S]*\n\[stop\]\n$/);
    assert.equal(output.match(/Demo model/g)?.length, 1);
    if (process.platform === 'win32') return;
    const stopped = run();
    await stopped.firstText;
    stopped.child.kill('SIGINT');
    assert.match(await stopped.output, /\n\[cancelled\]\n$/);
  });
});
