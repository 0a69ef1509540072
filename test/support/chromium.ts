import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { after } from 'node:test';
import { type Browser, chromium } from 'playwright-core';
import { install, provide } from './debian.ts';

/** The headless shell comes first, because it takes half the CPU time of the others. */
const NAMES = [
  'chromium-headless-shell',
  'chromium',
  'chromium-browser',
  'google-chrome',
  'google-chrome-stable',
  'chrome',
  'msedge',
];
const ELSEWHERE = [
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
  ...['PROGRAMFILES', 'PROGRAMFILES(X86)', 'LOCALAPPDATA'].flatMap((name) => {
    const folder = process.env[name];
    if (folder === undefined) return [];
    return [
      join(folder, 'Google', 'Chrome', 'Application', 'chrome.exe'),
      join(folder, 'Microsoft', 'Edge', 'Application', 'msedge.exe'),
    ];
  }),
];

/** No requests to Google, no first-run page, no QUIC. */
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

function executable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function find(): string | undefined {
  const asked = process.env.CHROMIUM_PATH;
  if (asked) return asked;
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
  const onPath = NAMES.flatMap((name) => folders.map((folder) => join(folder, name + suffix)));
  return [...onPath, ...ELSEWHERE].find(executable);
}

/** The path of Chromium, installed if it is missing and that is possible; see {@link provide}. */
export function provideChromium(): string | undefined {
  return provide(find, 'CHROMIUM', 'chromium-headless-shell');
}

/** Installs Chinese fonts, which only screenshots need. */
export function provideChineseFonts(): void {
  const found = () => {
    const { stdout } = spawnSync('fc-list', [':lang=zh', 'family'], { encoding: 'utf8' });
    return stdout?.trim() || undefined;
  };
  if (found() === undefined) install(found, ['fonts-noto-cjk']);
}

let shared: Promise<Browser> | undefined;

/** One browser for all tests of this process; each test opens its own context. */
export function sharedChromium(executablePath: string): Promise<Browser> {
  shared ??= launchChromium(executablePath);
  return shared;
}

after(async () => (await shared)?.close());

export function launchChromium(executablePath: string): Promise<Browser> {
  return chromium.launch({ executablePath, headless: true, args: FLAGS });
}
