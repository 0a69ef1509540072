import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { Browser, Page } from 'playwright-core';
import { provideChromium, sharedChromium } from '../support/chromium.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { ask, openAlone, openPage, textOf, until } from './page.ts';
import { PAUSE, startUpstream, type Upstream } from './upstream.ts';

const chromium = provideChromium();

/** The page and everything that it loads, each file compressed as a proxy does. */
const LARGEST_PAGE = 60 * 1024;

const MARKDOWN = `# Heading

Some **bold**, *em*, \`code\`, ~~gone~~ and a [link](https://example.com/a).
中文里的**强调。**不需要空格。

- [x] done
- two

| a | b |
|:--|--:|
| 1 | ${'w'.repeat(400)} |

\`\`\`js
const a = '<b>'; // ${'x'.repeat(400)}
\`\`\`
`;
/** Characters by name and number, line breaks in a table, two items with paragraphs, a list that starts later. */
const SPECIAL = `&copy; &amp;lt; &#169; \\&copy; \`&copy;\` &nosuch; <https://a.example/?b&copy=1>
[link](https://a.example/?b=1&amp;c=2 "&lt;title&gt;")

| a<br>b |
|---|

3. one

   more
4. two

${'> '.repeat(40)}deep
`;
const HOSTILE = `<img src=x onerror="window.hit=1"><script>window.hit=2</script>

<b onclick="window.hit=3">bold</b> and [a](javascript:window.hit=4) [b](data:text/html,x) [c](vbscript:x)
![pixel](https://evil.example/p.png?q=secret) <a href="javascript:window.hit=5">x</a> <svg/onload=window.hit=6>

\`\`\`"><img src=x onerror=window.hit=7>
code
\`\`\``;
const CODE = `\`\`\`js\n${Array.from({ length: 100 }, (_, n) => `line(${n});`).join('\n')}\n\`\`\``;
const ANSWERS = {
  markdown: MARKDOWN,
  special: SPECIAL,
  hostile: HOSTILE,
  code: CODE,
  'code in two': CODE.replace(/line\((40|70)\)/g, `${PAUSE}$&`),
};

/** How far the log is from its end. */
const BELOW = `(() => {
  const { scrollHeight, scrollTop, clientHeight } = document.getElementById('log');
  return scrollHeight - scrollTop - clientHeight;
})()`;

describe('the chat of the home page', { skip: chromium === undefined }, () => {
  let server: TestServer;
  let upstream: Upstream;
  let browser: Browser;

  before(async () => {
    upstream = await startUpstream(ANSWERS);
    [server, browser] = await Promise.all([
      startServer({ OPENAI_BASE_URL: upstream.baseUrl, CACHE_MAX_BYTES: '0' }),
      sharedChromium(chromium ?? ''),
    ]);
  });

  after(async () => {
    await server?.stop();
    await upstream?.close();
  });

  const idIn = (page: Page) => new URL(page.url()).searchParams.get('c');

  async function send(page: Page, message: string): Promise<void> {
    await page.locator('#message').fill(message);
    await page.locator('#message').press('Enter');
  }

  async function storedMessages(page: Page): Promise<{ role: string; content: string; status: string }[]> {
    const answer = await server.get(`/api/conversations/${idIn(page)}`);
    return JSON.parse(await answer.text()).messages;
  }

  test('is small: everything that it loads stays under 60 KB compressed', async (context) => {
    for (const locale of ['en-US', 'zh-CN']) {
      const { page, close } = await openAlone(browser, 'about:blank', { locale });
      const bodies = new Map<string, Promise<Buffer>>();
      page.on('response', (response) => {
        if (!/\/(health|api)\//.test(response.url())) bodies.set(response.url(), response.body());
      });
      await page.goto(server.url, { waitUntil: 'networkidle' });
      assert.ok(bodies.size > 20, `only ${bodies.size} files were loaded`);
      const files = await Promise.all(bodies.values());
      const total = files.reduce((bytes, file) => bytes + gzipSync(file).length, 0);
      context.diagnostic(`${total} bytes, ${locale}`);
      assert.ok(total < LARGEST_PAGE, `${total} bytes`);
      await close();
    }
  });

  test('renders Markdown, with code and tables that scroll sideways by themselves', async () => {
    const permissions = ['clipboard-read', 'clipboard-write'];
    const { page, faults, close } = await openAlone(browser, server.url, { permissions });
    await ask(page, 'markdown');
    const text = page.locator('.reply .text');
    assert.equal(await text.locator('h4').textContent(), 'Heading');
    assert.deepEqual(await text.locator('strong').allTextContents(), ['bold', '强调。']);
    assert.equal(await text.locator('em').textContent(), 'em');
    assert.equal(await text.locator('del').textContent(), 'gone');
    assert.equal(await text.locator('li input[type="checkbox"][checked][disabled]').count(), 1);
    const link = text.locator('a');
    assert.equal(await link.getAttribute('href'), 'https://example.com/a');
    assert.equal(await link.getAttribute('target'), '_blank');
    assert.match((await link.getAttribute('rel')) ?? '', /noopener noreferrer/);
    assert.equal(await text.locator('td[align="right"]').count(), 1);
    for (const scroller of ['.table', '.code pre']) {
      const isWider = `document.querySelector('${scroller}').scrollWidth > document.querySelector('${scroller}').clientWidth`;
      assert.ok(await page.evaluate(isWider), scroller);
      assert.equal(await text.locator(scroller).getAttribute('tabindex'), '0');
    }
    assert.equal(
      await page.evaluate(
        "document.getElementById('log').scrollWidth - document.getElementById('log').clientWidth",
      ),
      0,
    );
    await text.locator('.code button').click();
    await text.locator('.code button', { hasText: 'Copied' }).waitFor();
    const copied = String(await page.evaluate('navigator.clipboard.readText()'));
    assert.equal(copied, `const a = '<b>'; // ${'x'.repeat(400)}\n`);
    await page.locator('.reply .meta .copy').click();
    await page.locator('.reply .meta .copy', { hasText: 'Copied' }).waitFor();
    assert.equal(await page.evaluate('navigator.clipboard.readText()'), MARKDOWN);
    assert.deepEqual(faults, []);
    await close();
  });

  test('shows characters by name, line breaks in tables and numbered lists as browsers do', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    await ask(page, 'special');
    const text = page.locator('.reply .text');
    assert.equal(
      await text.locator('p').first().textContent(),
      '© &lt; © &copy; &copy; &nosuch; https://a.example/?b&copy=1\nlink',
    );
    const links = "[...document.querySelectorAll('.text a')].map(({ href, title }) => [href, title])";
    assert.deepEqual(await page.evaluate(links), [
      ['https://a.example/?b&copy=1', ''],
      ['https://a.example/?b=1&c=2', '<title>'],
    ]);
    assert.equal(await text.locator('th').innerText(), 'a\nb');
    assert.equal(await text.locator('ol[start="3"] > li > p').count(), 3);
    assert.equal(await text.locator('blockquote').last().innerText(), 'deep');
    assert.deepEqual(faults, []);
    await close();
  });

  test('shows HTML and images of a reply as text and links, and runs and loads nothing', async () => {
    const { page, faults, foreign, close } = await openPage(browser, server.url);
    await ask(page, 'hostile');
    const text = page.locator('.reply .text');
    assert.equal(await text.locator('img, script, svg, b, [onclick], [onerror]').count(), 0);
    assert.match(await textOf(text), /<img src=x onerror="window.hit=1"><script>/);
    const targets = await page.evaluate(
      "[...document.querySelectorAll('.reply .text a[href]')].map((link) => link.href)",
    );
    assert.deepEqual(targets, ['https://evil.example/p.png?q=secret']);
    assert.equal(await page.evaluate('window.hit'), undefined);
    assert.deepEqual([faults, foreign], [[], []]);
    // Whatever its scripts do, the page makes no HTML of a text.
    const refused = "try { document.body.innerHTML = '<p>'; } catch (error) { error.name; }";
    assert.equal(await page.evaluate(refused), 'TypeError');
    await close();
  });

  test('gives each conversation an address, for reloads, the list, Back and Forward', async () => {
    const { page, faults, close } = await openPage(browser, server.url);
    await ask(page, 'first of two');
    const first = idIn(page);
    assert.ok(first);
    await page.locator('#renew').click();
    assert.equal(idIn(page), null);
    await ask(page, 'second of two');
    const second = idIn(page);
    assert.notEqual(second, first);

    await page.reload();
    await page.locator('.reply[data-state="done"]', { hasText: 'word 0 word 1 word 2' }).waitFor();
    assert.deepEqual(await page.locator('.question .text').allTextContents(), ['second of two']);
    assert.match((await page.locator('.question time').getAttribute('datetime')) ?? '', /^20\d\d-.*Z$/);
    assert.equal(await page.locator('#conversations a[aria-current]').getAttribute('data-id'), second);
    await page.locator(`#conversations a[data-id="${first}"]`).click();
    await page.locator('.question', { hasText: 'first of two' }).waitFor();
    assert.equal(idIn(page), first);
    await page.goBack();
    await page.locator('.question', { hasText: 'second of two' }).waitFor();
    await page.goForward();
    await page.locator('.question', { hasText: 'first of two' }).waitFor();
    await ask(page, 'third');
    assert.equal((await storedMessages(page)).length, 4);
    assert.equal(await page.locator('#conversations li a').first().getAttribute('data-id'), first);
    assert.deepEqual(faults, []);
    await close();
  });

  test('says that a conversation is gone, in the language of the page', async () => {
    const { page, close } = await openPage(browser, `${server.url}/?c=${crypto.randomUUID()}`, {
      locale: 'zh-CN',
    });
    await page.locator('.error').waitFor();
    assert.equal(await textOf(page.locator('.error')), '请求失败（404）\n对话不存在、已删除或已过期。');
    await close();
  });

  test('keeps the text that was not sent, also when the page is loaded again', async () => {
    const { page, close } = await openPage(browser, server.url);
    await page.locator('#message').fill('not yet');
    await page.reload();
    assert.equal(await page.locator('#message').inputValue(), 'not yet');
    await ask(page, 'not yet, but now');
    await page.reload();
    assert.equal(await page.locator('#message').inputValue(), '');
    await close();
  });

  test('deletes a conversation after a second click', async () => {
    const { page, close } = await openPage(browser, server.url);
    await ask(page, 'to be deleted');
    const path = `/api/conversations/${idIn(page)}`;
    await page.locator('.actions .remove').click();
    assert.equal((await server.get(path)).status, 200);
    await page.locator('.actions .remove', { hasText: 'Really delete?' }).click();
    await page.locator('#empty').waitFor();
    assert.equal((await server.get(path)).status, 404);
    assert.equal(idIn(page), null);
    assert.equal(await page.locator('#conversations a', { hasText: 'to be deleted' }).count(), 0);
    await close();
  });

  test('shows what another tab has added when it is looked at again, and keeps what is edited', async () => {
    const { page, close } = await openPage(browser, server.url);
    await ask(page, 'here');
    const conversation_id = idIn(page);
    const add = (message: string) => server.post('/api/chat', { message, conversation_id });
    const look = () => page.evaluate("dispatchEvent(new Event('focus'))");
    await (await add('there')).text();
    await look();
    await page.locator('.question', { hasText: 'there' }).waitFor();
    assert.equal(await page.locator('.reply[data-state="done"]').count(), 2);
    await page.locator('.edit').first().click();
    await (await add('later')).text();
    await Promise.all([page.waitForResponse(/pinned/), look()]);
    await page.locator('#conversations [aria-current] .preview', { hasText: 'word' }).waitFor();
    await page.keyboard.press('Escape');
    await look();
    await page.locator('.question', { hasText: 'later' }).waitFor();
    await close();
  });

  test('resumes a running reply after a reload, and stops it with Esc', async () => {
    const { page, close } = await openPage(browser, server.url);
    await send(page, 'endless');
    await page.locator('.reply', { hasText: 'word 5' }).waitFor();
    assert.equal(await page.locator('.reply .meta').textContent(), 'Receiving…');
    await page.reload();
    await page.locator('.reply', { hasText: 'word 30' }).waitFor();
    assert.match((await page.locator('.reply .text').textContent()) ?? '', /^word 0 word 1 /);
    await send(page, 'meanwhile');
    assert.match((await page.locator('#hint').textContent()) ?? '', /wait for it, or stop it with Esc/);
    assert.equal(await page.locator('#message').inputValue(), 'meanwhile');
    await page.keyboard.press('Escape');
    await page.locator('.reply[data-state="stopped"]').waitFor();
    const [, reply] = await storedMessages(page);
    assert.equal(reply?.status, 'cancelled');
    assert.equal((await page.locator('.reply .text').textContent())?.trim(), reply?.content.trim());
    assert.equal(await page.locator('.reply').count(), 1);
    await close();
  });

  test('resumes a question that had no reply yet when the page was reloaded, and stores it once', async () => {
    const { page, close } = await openPage(browser, server.url);
    const sent = page.waitForRequest(/chat-stream/);
    await send(page, 'slow');
    await sent;
    await page.reload();
    await page.locator('.reply[data-state="done"]', { hasText: 'word 0 word 1 word 2' }).waitFor();
    assert.equal(await page.locator('.question').count(), 1);
    assert.deepEqual(
      (await storedMessages(page)).map(({ role }) => role),
      ['user', 'assistant'],
    );
    assert.equal(await page.evaluate('sessionStorage.length'), 0);
    await close();
  });

  test('follows a growing code block, not against the reader, and never makes the document longer', async () => {
    const viewport = { width: 1000, height: 600 };
    const { page, close } = await openPage(browser, server.url, { viewport });
    const height = () => page.evaluate('document.documentElement.scrollHeight');
    // The state of the server is shown below, once it is known.
    await page.waitForLoadState('networkidle');
    const before = await height();
    await ask(page, 'code');
    await until(page, `${BELOW} < 5`);
    assert.equal(await page.locator('.code').count(), 1);
    await send(page, 'code in two');
    const last = page.locator('.reply').last();
    await last.locator('.code', { hasText: 'line(20)' }).waitFor();
    await until(page, `${BELOW} < 60`);
    await page.locator('#log').hover();
    await page.mouse.wheel(0, -400);
    await page.locator('#jump').waitFor();
    upstream.resume();
    await last.locator('.code', { hasText: 'line(60)' }).waitFor();
    assert.ok(Number(await page.evaluate(BELOW)) > 300);
    await page.locator('#jump').click();
    await until(page, `${BELOW} < 60`);
    assert.equal(await page.locator('#jump').isVisible(), false);
    upstream.resume();
    await page.locator('#log[aria-busy="false"]').waitFor();
    await until(page, `${BELOW} < 5`);
    assert.equal(await height(), before);
    await close();
  });
});
