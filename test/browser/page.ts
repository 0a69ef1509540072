import type { Browser, BrowserContextOptions, Locator, Page } from 'playwright-core';

export interface OpenedPage {
  readonly page: Page;
  /** What the browser complained about: script errors, failed loads, violations of the page's policy. */
  readonly faults: readonly string[];
  /** Requests to anywhere but the server. */
  readonly foreign: readonly string[];
  close(): Promise<void>;
}

const VIEWPORT = { width: 1280, height: 720 };

/** Closed pages by language, to be used again: that takes half the CPU time of a page in a new process. */
const closedPages = new Map<string, Page>();

/** Opens a page with empty storage and records its errors. Its context may have shown other pages before. */
export async function openPage(
  browser: Browser,
  url: string,
  { locale = 'en-US', viewport = VIEWPORT }: Pick<BrowserContextOptions, 'locale' | 'viewport'> = {},
): Promise<OpenedPage> {
  const page = closedPages.get(locale) ?? (await (await browser.newContext({ locale })).newPage());
  // The page of a test that fails before it closes it is not used again.
  closedPages.delete(locale);
  if (viewport) await page.setViewportSize(viewport);
  const close = async () => {
    for (const other of page.context().pages()) if (other !== page) await other.close();
    await page.unrouteAll();
    // A blank page that a page navigates to has its origin, and so access to its storage, and stays in its process.
    await page.evaluate("void (location.href = 'about:blank')");
    await page.waitForURL('about:blank');
    await page.evaluate('localStorage.clear(); sessionStorage.clear()');
    await page.context().clearCookies();
    for (const event of ['console', 'pageerror', 'request', 'response']) page.removeAllListeners(event);
    closedPages.set(locale, page);
  };
  return { ...(await show(page, url)), close };
}

/** Opens a page in a new context, for tests whose changes cannot be undone, such as permissions or a fixed clock. */
export async function openAlone(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<OpenedPage> {
  const context = await browser.newContext({ locale: 'en-US', ...options });
  return { ...(await show(await context.newPage(), url)), close: () => context.close() };
}

async function show(page: Page, url: string): Promise<Omit<OpenedPage, 'close'>> {
  const faults: string[] = [];
  const foreign: string[] = [];
  const { origin } = new URL(url);
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') faults.push(message.text());
  });
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('request', (request) => {
    const target = new URL(request.url());
    if (target.protocol !== 'data:' && target.origin !== origin) foreign.push(request.url());
  });
  await page.goto(url);
  return { page, faults, foreign };
}

/** Reduces the API document to two operations: Swagger UI needs seconds of CPU time for all schemas. */
export async function shortenDocument(page: Page): Promise<void> {
  await page.route('**/openapi.json', async (route) => {
    const response = await route.fetch();
    if (!response.ok()) return route.fulfill({ response });
    const { paths, components, ...document } = await response.json();
    const kept = ['/health', '/api/conversations'].map((path) => {
      const { operationId, tags, security } = paths[path].get;
      return [path, { get: { operationId, tags, security, responses: { 200: { description: 'OK' } } } }];
    });
    const { securitySchemes } = components;
    const json = { ...document, paths: Object.fromEntries(kept), components: { securitySchemes } };
    return route.fulfill({ response, json });
  });
}

/** Switches the language, and waits until it is shown. */
export async function switchLanguage(page: Page, language: string): Promise<void> {
  await page.locator(`[data-language="${language}"]`).click();
  await page.locator(`html[lang="${language}"]`).waitFor();
}

/** Sends a message with Enter and waits until its reply has ended, well or not. */
export async function ask(page: Page, message: string): Promise<void> {
  await page.evaluate("for (const reply of document.querySelectorAll('.reply')) reply.dataset.old = ''");
  await page.locator('#message').fill(message);
  await page.locator('#message').press('Enter');
  await page.locator('.reply:not([data-old])').last().waitFor();
  await page.locator('#log[aria-busy="false"]').waitFor();
}

/** What is seen of an element, a line for each block. */
export async function textOf(element: Locator): Promise<string> {
  return (await element.innerText()).replace(/\n+/g, '\n');
}

const PATIENCE_MS = 30_000;

/** Waits until a JavaScript expression holds in the page, looking every 20 ms; rejects after PATIENCE_MS. */
export async function until(page: Page, condition: string): Promise<void> {
  await page.evaluate(`new Promise((resolve, reject) => {
    const end = performance.now() + ${PATIENCE_MS};
    const look = () => {
      if (${condition}) resolve();
      else if (performance.now() > end) reject(new Error(${JSON.stringify(`never came true: ${condition}`)}));
      else setTimeout(look, 20);
    };
    look();
  })`);
}
