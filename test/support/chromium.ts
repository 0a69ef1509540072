import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { type Browser, chromium } from 'playwright-core';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome', 'msedge'];
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

/** Quiet and alone: no call home, no first-run page, no QUIC. */
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

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

/** As root on a Debian-like machine; whatever goes wrong, the caller sees that nothing is there. */
function install(...packages: string[]): void {
  if (process.env.TEST_NO_INSTALL === '1' || process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get'))
    return;
  say(
    `# installing ${packages.join(', ')} with apt-get, for the browser tests (TEST_NO_INSTALL=1 forbids it)`,
  );
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const options = { env, stdio: ['ignore', 'ignore', 'inherit'] as ['ignore', 'ignore', 'inherit'] };
  const lock = ['-o', 'DPkg::Lock::Timeout=300', '-qq'];
  spawnSync('apt-get', [...lock, 'update'], options);
  spawnSync('apt-get', [...lock, 'install', '-y', '--no-install-recommends', ...packages], options);
}

/**
 * Where Chromium is, after installing it if that is possible and allowed. Undefined, said in one loud line: there is
 * none. With CI=true that is an error instead.
 */
export function provideChromium(): string | undefined {
  let path = find();
  if (path === undefined) {
    install('chromium');
    path = find();
  }
  if (path !== undefined) return path;
  const line =
    'NO CHROMIUM: THE BROWSER TESTS DO NOT RUN. Install chromium or set CHROMIUM_PATH to a Chromium or Chrome.';
  if (process.env.CI === 'true') throw new Error(line);
  say(`\n!!! ${line}\n`);
  return undefined;
}

/** Fonts for Chinese, which only a picture needs. */
export function provideChineseFonts(): void {
  const known = spawnSync('fc-list', [':lang=zh', 'family'], { encoding: 'utf8' });
  if (known.status !== 0 || known.stdout.trim() === '') install('fonts-noto-cjk');
}

export function launchChromium(executablePath: string): Promise<Browser> {
  return chromium.launch({ executablePath, headless: true, args: FLAGS });
}
