import type { Browser, BrowserContextOptions, Locator, Page } from 'playwright-core';

export interface OpenedPage {
  readonly page: Page;
  /** What the browser complained about: script errors, failed loads, violations of the page's policy. */
  readonly faults: readonly string[];
  /** Requests to anywhere but the server. */
  readonly foreign: readonly string[];
  close(): Promise<void>;
}

/** Opens a page in a context of its own and listens to what goes wrong in it. */
export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<OpenedPage> {
  const context = await browser.newContext({ locale: 'en-US', ...options });
  const page = await context.newPage();
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
  return { page, faults, foreign, close: () => context.close() };
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

/** Waits until a JavaScript expression holds in the page, looking at every frame; rejects after PATIENCE_MS. */
export async function until(page: Page, condition: string): Promise<void> {
  await page.evaluate(`new Promise((resolve, reject) => {
    const end = performance.now() + ${PATIENCE_MS};
    const look = () => {
      if (${condition}) resolve();
      else if (performance.now() > end) reject(new Error(${JSON.stringify(`never came true: ${condition}`)}));
      else requestAnimationFrame(look);
    };
    look();
  })`);
}
