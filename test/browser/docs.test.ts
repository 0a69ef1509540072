import assert from 'node:assert/strict';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { ask, openPage, shortenDocument } from './page.ts';

const HTML = { accept: 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8' };

interface Summary {
  readonly endpoints: readonly { readonly method: string; readonly path: string }[];
}

describe('the pages and their files', () => {
  let server: TestServer;

  before(async () => {
    server = await startServer();
  });

  after(() => server?.stop());

  test('/ is a page for browsers and JSON for other clients', async () => {
    const page = await server.get('/', HTML);
    assert.equal(page.headers.get('content-type'), 'text/html; charset=utf-8');
    assert.doesNotMatch(await page.text(), /\{\{|<style|style=|<script(?![^>]* src=)| on\w+=/);
    const policy = page.headers.get('content-security-policy') ?? '';
    assert.match(policy, /^default-src 'none'; script-src 'self'; style-src 'self';/);
    for (const headers of [
      undefined,
      { accept: '*/*' },
      { accept: 'application/json' },
      { accept: 'image/png' },
    ]) {
      const answer = await server.get('/', headers);
      assert.equal(answer.headers.get('content-type'), 'application/json; charset=utf-8');
      assert.match(answer.headers.get('vary') ?? '', /\bAccept\b/);
      const { endpoints, ...rest }: Summary = JSON.parse(await answer.text());
      assert.deepEqual(rest, {
        name: 'chat-api-server',
        version: '0.0.0-test',
        docs: '/docs',
        openapi: '/openapi.json',
        health: '/health/ready',
      });
      const found = endpoints.find(({ path }) => path === '/api/conversations/{id}');
      assert.equal(found?.method, 'GET');
    }
  });

  test('files come with an ETag that is good for a 304; only reading is possible', async () => {
    const first = await server.get('/assets/app.js');
    assert.equal(first.headers.get('content-type'), 'text/javascript; charset=utf-8');
    const etag = first.headers.get('etag') ?? '';
    // Without a Cache-Control of its own, fetch adds one that forbids the 304.
    const again = { 'if-none-match': etag, 'cache-control': 'max-age=0' };
    assert.equal((await server.get('/assets/app.js', again)).status, 304);
    const posted = await server.post('/assets/app.js', {});
    assert.equal(posted.status, 405);
    assert.equal(posted.headers.get('allow'), 'GET, HEAD, OPTIONS');
  });

  test('what is no file of a page is a 404 problem, in the packages and folders behind them too', async () => {
    const paths = [
      '/assets',
      '/assets/none.js',
      '/assets/index.html',
      '/assets/.hidden',
      '/docs-assets',
      '/docs-assets/package.json',
      '/docs-assets/index.html',
      '/docs-assets/swagger-ui-bundle.js.map',
    ];
    for (const path of paths) {
      const answer = await server.get(path);
      assert.equal(answer.status, 404, path);
      assert.match(await answer.text(), /"code":"not_found"/, path);
    }
  });
});

const chromium = provideChromium();

describe('/docs in a browser', { skip: chromium === undefined }, () => {
  let server: TestServer;
  let browser: Browser;

  before(async () => {
    [server, browser] = await Promise.all([startServer(), sharedChromium(chromium ?? '')]);
  });

  after(async () => {
    await server?.stop();
  });

  test('shows every operation and can try one, with nothing from elsewhere', async () => {
    const { page, faults, foreign, close } = await openPage(browser, `${server.url}/docs`);
    const document = await server.get('/openapi.json');
    const { paths }: { paths: Record<string, object> } = JSON.parse(await document.text());
    const operations = Object.values(paths).flatMap((path) => Object.keys(path)).length;
    await page.locator('.opblock').first().waitFor();
    assert.equal(await page.locator('.opblock').count(), operations);
    const health = page.locator('.opblock', { has: page.locator('[data-path="/health"]') });
    await health.click();
    await health.locator('.try-out__btn').click();
    await health.locator('.execute').click();
    await health.locator('.live-responses-table .response-col_status', { hasText: '200' }).waitFor();
    assert.deepEqual(faults, []);
    assert.deepEqual(foreign, []);
    await close();
  });

  test('the pages work below a prefix that a proxy takes off', async () => {
    const outside: string[] = [];
    const proxy = createServer((incoming, outgoing) => {
      const { url = '', method, headers } = incoming;
      if (!url.startsWith('/a/b/')) {
        outside.push(url);
        outgoing.writeHead(404).end();
        return;
      }
      const target = new URL(url.slice('/a/b'.length), server.url);
      const forwarded = request(target, { method, headers }, (response) => {
        outgoing.writeHead(response.statusCode ?? 0, response.headers);
        response.pipe(outgoing);
      });
      incoming.pipe(forwarded);
    });
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
    const prefix = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}/a/b`;
    const home = await openPage(browser, `${prefix}/`);
    await ask(home.page, 'hello');
    await home.page.locator('.reply .text', { hasText: 'demo model' }).waitFor();
    await home.page.locator('#conversations a', { hasText: 'hello' }).waitFor();
    assert.match(home.page.url(), /\/a\/b\/\?c=[\w-]{36}$/);
    await home.page.reload();
    await home.page.locator('.reply .text', { hasText: 'demo model' }).waitFor();
    assert.match((await home.page.locator('#whole').textContent()) ?? '', /\/a\/b\/api\/chat /);
    await shortenDocument(home.page);
    await home.page.locator('a[data-keyed]', { hasText: '/docs' }).click();
    const health = home.page.locator('.opblock', { has: home.page.locator('[data-path="/health"]') });
    await health.click();
    await health.locator('.try-out__btn').click();
    await health.locator('.execute').click();
    await health.locator('.live-responses-table .response-col_status', { hasText: '200' }).waitFor();
    assert.deepEqual([home.faults, home.foreign, outside], [[], [], []]);
    // The health of a server that refuses the key is asked for without it.
    const refused = { status: 429, contentType: 'application/problem+json', body: '{}' };
    await home.page.route('**/health/ready', (route) => route.fulfill(refused), { times: 1 });
    await home.page.goto(`${prefix}/`);
    await home.page.locator('[data-part="service"][data-state="good"]').waitFor();
    assert.deepEqual(outside, []);
    await home.close();
    proxy.closeAllConnections();
    await new Promise((resolve) => proxy.close(resolve));
  });
});
