import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page, Request } from 'playwright-core';
import type { Scope } from '../../src/domain/access/api-keys.ts';
import { createIdSource } from '../../src/ids.ts';
import { ApiKeyService, type CreatedKey } from '../../src/services/access/api-keys.ts';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { silent } from '../support/databases.ts';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { ask, openPage, shortenDocument, switchLanguage, textOf, until } from './page.ts';
import { PAUSE, startUpstream, type Upstream } from './upstream.ts';

const chromium = provideChromium();

const LONG = 'a long one';
const ANSWER = Array.from({ length: 30 }, (_, n) => `part ${n} `)
  .join('')
  .trim();

function keysOf(server: TestServer): ApiKeyService {
  const clock = { now: () => Date.now() };
  return new ApiKeyService({ store: server.database.apiKeys, clock, ids: createIdSource(), log: silent });
}

describe('the home page of a server that asks for keys', { skip: chromium === undefined }, () => {
  let folder: string;
  let server: TestServer;
  let keys: ApiKeyService;
  let upstream: Upstream;
  let browser: Browser;
  let proxy: FaultProxy;
  let admin: CreatedKey;

  const create = (owner: string, ...scopes: Scope[]) => keys.create({ owner, scopes, expiresAt: null });

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-keys-'));
    upstream = await startUpstream({ [LONG]: ANSWER.replace('part 10', `${PAUSE}$&`) });
    const env = {
      DATABASE_URL: `sqlite:${join(folder, 'chat.sqlite')}`,
      OPENAI_BASE_URL: upstream.baseUrl,
      CACHE_MAX_BYTES: '0',
      RATE_LIMIT_REQUESTS: '20',
      RATE_LIMIT_AUTH_FAILURES: '0',
    };
    // A server that asks for keys does not start without one.
    const open = await startServer(env);
    admin = await keysOf(open).create({ owner: 'admin', scopes: ['admin'], expiresAt: null });
    await open.stop();
    [server, browser] = await Promise.all([
      startServer({ ...env, AUTH: 'required' }),
      sharedChromium(chromium ?? ''),
    ]);
    keys = keysOf(server);
    proxy = await startFaultProxy(Number(new URL(server.url).port));
  });

  after(async () => {
    await proxy?.close();
    await server?.stop();
    await upstream?.close();
    await rm(folder, { recursive: true, force: true });
  });

  const state = (page: Page) => page.locator('#key-state');
  const stored = (page: Page) => page.evaluate('JSON.stringify([{ ...sessionStorage }, document.cookie])');

  async function give(page: Page, key: string): Promise<void> {
    await page.locator('#key-input').fill(key);
    await page.locator('#key-input').press('Enter');
  }

  /** A page whose user has already given a key. */
  async function openWith({ key }: CreatedKey, url = server.url) {
    const opened = await openPage(browser, url);
    await give(opened.page, key);
    await state(opened.page)
      .filter({ hasText: key.slice(0, 11) })
      .waitFor();
    return opened;
  }

  test('asks for a key at the start, again at a refusal, and gives the message back', async () => {
    const { page, foreign, close } = await openPage(browser, server.url, {
      viewport: { width: 1280, height: 900 },
    });
    await page.locator('[data-part="service"][data-state="good"]').waitFor();
    await page.locator('#model', { hasText: 'Only keys with the scope admin' }).waitFor();
    await state(page).filter({ hasText: 'This server requires an API key' }).waitFor();
    for (const command of ['#whole', '#stream']) {
      const text = await page.locator(command).textContent();
      assert.match(text ?? '', /-H 'authorization: Bearer ck_…'/);
    }
    const { y = 0, height = 0 } = (await page.locator('#send').boundingBox()) ?? {};
    assert.ok(y > 0 && y + height <= 900, `Send is at ${y}`);
    await ask(page, 'Hello');
    assert.equal(await textOf(page.locator('.error')), 'Request failed (401)\nA valid API key is required.');
    assert.equal(await page.evaluate('document.activeElement.id'), 'key-input');
    assert.equal(await page.locator('#message').inputValue(), 'Hello');
    await switchLanguage(page, 'zh-CN');
    assert.match((await page.locator('#key').innerText()) ?? '', /^API 密钥\s+此服务器需要.*\s+使用此密钥$/);
    assert.equal(await textOf(page.locator('.error')), '请求失败（401）\n需要有效的 API 密钥。');
    assert.deepEqual(foreign, []);
    await close();
  });

  test('keeps a key for the tab, shows only how it begins, and forgets it when asked to', async () => {
    const mine = await create('keeper', 'chat', 'read');
    const { page, close } = await openWith(mine);
    await until(page, "document.activeElement.id === 'message'");
    await ask(page, 'Hello');
    await page.locator('.reply[data-state="done"]').waitFor();
    assert.equal(await stored(page), JSON.stringify([{ 'api-key': mine.key }, '']));
    assert.doesNotMatch(String(await page.evaluate('JSON.stringify({ ...localStorage })')), /ck_/);
    assert.doesNotMatch(await page.content(), new RegExp(mine.key.slice(12)));
    await page.reload();
    await state(page).filter({ hasText: mine.apiKey.prefix }).waitFor();
    await page.locator('.reply[data-state="done"]').waitFor();
    await ask(page, 'Hello again');
    await page.locator('.reply[data-state="done"]').nth(1).waitFor();

    const other = await page.context().newPage();
    await other.goto(server.url);
    assert.equal(await other.evaluate('sessionStorage.length'), 0);

    await page.locator('#key-forget').click();
    assert.equal(await stored(page), '[{},""]');
    assert.equal(await page.locator('.reply').count(), 0);
    assert.equal(await page.evaluate('document.activeElement.id'), 'key-input');
    await ask(page, 'Hello');
    assert.match((await page.locator('.error').textContent()) ?? '', /\(401\)/);
    await close();
  });

  test('says that a key was refused, and does not show it to the server again', async () => {
    const revoked = await create('gone', 'chat');
    await keys.revoke(revoked.apiKey.id);
    const { page, close } = await openPage(browser, server.url);
    const sent: Request[] = [];
    page.on('request', (request) => sent.push(request));
    await ask(page, 'Hello');
    for (const key of [revoked.key, 'nonsense']) {
      const before = sent.length;
      await give(page, ` ${key}\t`);
      await state(page).filter({ hasText: 'rejected the key (401)' }).waitFor();
      assert.equal(
        await stored(page),
        '[{"draft":"Hello"},""]',
        'the message that was not sent, not the key',
      );
      await until(page, "document.activeElement.id === 'key-input'");
      await ask(page, 'Hello');
      const shown = await Promise.all(
        sent.slice(before).map((request) => request.headerValue('authorization')),
      );
      assert.equal(shown.filter((value) => value !== null).length, 1);
    }
    const before = sent.length;
    await give(page, 'ck_密钥 with blanks');
    await state(page).filter({ hasText: 'Not a valid key' }).waitFor();
    assert.equal(sent.length, before);
    await close();
  });

  test('says that a key lacks the scope, and when one has asked too often', async () => {
    const author = await create('reader', 'chat');
    await server.post('/api/chat', { message: 'listed' }, { authorization: `Bearer ${author.key}` });
    const { page, close } = await openPage(browser, server.url);
    const list = Promise.withResolvers<void>();
    await page.route(/\/api\/conversations\?/, (route) => list.promise.then(() => route.continue()));
    const asked = page.waitForRequest(/\/api\/conversations\?/);
    await give(page, (await create('reader', 'read')).key);
    await asked;
    await ask(page, 'Hello');
    const lacking = state(page).filter({ hasText: 'lacks the required scope (403)' });
    await lacking.waitFor();
    // A good response to an older request does not hide the refusal.
    list.resolve();
    await page.locator('#conversations li', { hasText: 'listed' }).waitFor();
    assert.equal(await lacking.count(), 1);
    assert.match(await textOf(page.locator('.error')), /\(403\)\nThe key lacks the required scope\.$/);
    await page.locator('#key-forget').click();

    const eager = await create('eager', 'chat');
    const headers = { authorization: `Bearer ${eager.key}` };
    for (let status = 200; status !== 429; ) status = (await server.get('/openapi.json', headers)).status;
    const said = /Too many requests \(429\); retry in ([1-9]\d*) s/;
    await give(page, eager.key);
    await state(page).filter({ hasText: said }).waitFor();
    await ask(page, 'Hello');
    assert.match(await textOf(page.locator('.error').last()), /\(429\)\nToo many requests: a limit/);
    assert.match((await page.locator('.meta').last().textContent()) ?? '', /retry in [1-9]\d* s$/);
    await close();
  });

  test('sends the key with every call: a reply gone on with after a break, its stop, the details of the health', async () => {
    const { page, foreign, close } = await openPage(browser, `http://127.0.0.1:${proxy.port}`);
    await ask(page, 'Hello');
    await give(page, admin.key);
    await page.locator('[data-part="database"][data-state="good"]', { hasText: 'up' }).waitFor();
    await page.locator('[data-part="upstream"][data-state="good"]').waitFor();
    await page.locator('#model', { hasText: 'is connected' }).waitFor();
    const sent: Request[] = [];
    page.on('request', (request) => sent.push(request));
    await page.locator('#message').fill(LONG);
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'part 9 ' }).waitFor();
    proxy.cut();
    upstream.resume();
    await page.locator('.reply[data-state="done"]').waitFor();
    assert.equal(await page.locator('.reply[data-state="done"] .text').textContent(), ANSWER);
    await page.locator('#message').fill('endless');
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'word 3' }).waitFor();
    await page.locator('#stop').click();
    await page.locator('.meta', { hasText: 'stopped; the text so far is saved' }).waitFor();
    assert.deepEqual(
      sent.filter((request) => request.url().includes('/api/chat')).map((request) => request.method()),
      ['POST', 'GET', 'POST', 'DELETE'],
    );
    for (const request of sent)
      assert.equal(await request.headerValue('authorization'), `Bearer ${admin.key}`, request.url());
    assert.deepEqual(foreign, []);
    await close();
  });

  test('resumes a reply whose key was revoked meanwhile, with another key', async () => {
    const [first, second] = [await create('two', 'chat'), await create('two', 'chat')];
    const { page, close } = await openWith(first, `http://127.0.0.1:${proxy.port}`);
    await page.locator('#message').fill(LONG);
    await page.locator('#message').press('Enter');
    await page.locator('.reply', { hasText: 'part 9 ' }).waitFor();
    await page.route(/chat-stream\/./, async (route) => {
      const headers = { ...route.request().headers(), authorization: 'Bearer revoked' };
      await route.continue({ headers });
    });
    proxy.cut();
    upstream.resume();
    await state(page).filter({ hasText: 'rejected the key (401)' }).waitFor();
    await page.unroute(/chat-stream\/./);
    await give(page, second.key);
    await page.locator('.error button', { hasText: 'Resume' }).click();
    await page.locator('.reply[data-state="done"]').waitFor();
    assert.equal(await page.locator('.reply .text').textContent(), ANSWER);
    await close();
  });

  test('opens the documents and the stored conversation, which a link alone could not', async () => {
    const mine = await create('browser', 'chat', 'read');
    const { page, foreign, close } = await openWith(mine);
    await ask(page, 'Hello');
    await page.locator('.reply[data-state="done"]').waitFor();
    await page.locator('#record').click();
    await page.waitForURL(/^blob:/);
    assert.match(await page.content(), /"content":"word 0 word 1 word 2 "/);
    await page.goBack();
    await state(page).waitFor();
    await page.locator('.links a[href="./openapi.json"]').click();
    await page.waitForURL(/^blob:/);
    assert.match(await page.content(), /"openapi":"3\.1\.0"/);
    assert.deepEqual(foreign, []);
    await close();
  });

  test('opens the API docs in its own place, which take the key over for what is tried out', async () => {
    const mine = await create('reader of documents', 'read');
    const { page, faults, foreign, close } = await openWith(mine);
    await shortenDocument(page);
    const before = faults.length;
    await page.locator('.links a[href="./docs"]').click();
    await page.locator('.opblock').first().waitFor();
    await page.goBack();
    await state(page).filter({ hasText: mine.apiKey.prefix }).waitFor();
    await page.locator('.links a[href="./docs"]').click();
    const operation = page.locator('.opblock', { has: page.locator('[data-path="/api/conversations"]') });
    await operation.first().click();
    await operation.locator('.try-out__btn').click();
    await operation.locator('.execute').click();
    await operation.locator('.live-responses-table .response-col_status', { hasText: '200' }).waitFor();
    assert.match(await page.title(), /– docs$/);
    assert.equal(await page.locator('#form').count(), 0);
    assert.deepEqual(faults.slice(before), []);
    await page.reload();
    await page.locator('.opblock').first().waitFor();
    assert.deepEqual(foreign, []);
    // Through the API: the server caches valid keys for a second, and drops this one when it revokes it.
    const headers = { authorization: `Bearer ${admin.key}` };
    const path = `${server.url}/api/keys/${mine.apiKey.id}`;
    assert.equal((await fetch(path, { method: 'DELETE', headers })).status, 200);
    await page.goto(`${server.url}/?docs`);
    await state(page).filter({ hasText: 'rejected the key (401)' }).waitFor();
    assert.equal(await page.locator('#form').isVisible(), true);
    await close();
  });

  test('loosens its policy only where it writes the API docs, and a stranger gets neither', async () => {
    const html = { accept: 'text/html' };
    const policyOf = async (path: string) =>
      (await server.get(path, html)).headers.get('content-security-policy');
    assert.doesNotMatch((await policyOf('/')) ?? 'none', /unsafe|data:/);
    assert.match(
      (await policyOf('/')) ?? 'none',
      /; require-trusted-types-for 'script'; trusted-types entity$/,
    );
    assert.doesNotMatch((await policyOf('/?doc=1')) ?? 'none', /unsafe|data:/);
    assert.equal(
      await policyOf('/?docs'),
      `${await policyOf('/')}`
        .replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
        .replace("img-src 'self'", "img-src 'self' data:")
        .replace("; require-trusted-types-for 'script'; trusted-types entity", ''),
    );
    const { authorization } = { authorization: 'Bearer wrong' };
    for (const [path, headers] of [
      ['/docs', {}],
      ['/docs', { accept: '*/*' }],
      ['/docs', { ...html, authorization }],
      ['/openapi.json', html],
    ] as const) {
      const answer = await server.get(path, headers);
      assert.equal(answer.status, 401);
      assert.match(answer.headers.get('content-type') ?? '', /^application\/problem\+json/);
    }
  });

  test('asks who opens /docs for the key, and shows the documents then', async () => {
    const mine = await create('typist', 'read');
    const { page, close } = await openPage(browser, `${server.url}/docs`);
    assert.equal(page.url(), `${server.url}/?docs`);
    await shortenDocument(page);
    await give(page, mine.key);
    await page.locator('.opblock').first().waitFor();
    await page.goto(`${server.url}/docs`);
    await page.locator('.opblock').first().waitFor();
    await close();
  });
});
