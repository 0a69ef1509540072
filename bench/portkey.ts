/** Portkey's gateway, which forwards calls and stores nothing: installed beside this package, never in it. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Measured, startProgram } from './processes.ts';

const GATEWAY = '@portkey-ai/gateway';
const VERSION = '1.15.2';
/** With later ones this version does not start. */
const PINNED = { hono: '4.9.7', '@hono/node-server': '1.13.5', '@hono/node-ws': '1.2.0' };

const FOLDER = join(tmpdir(), `chat-api-bench-portkey-${VERSION}`);
const PROGRAM = join(FOLDER, 'node_modules', ...GATEWAY.split('/'), 'build', 'start-server.js');
const FENCE = new URL('./fence.ts', import.meta.url).href;

export const PORTKEY = `Portkey ${VERSION}`;

/** Installs it once, without its install scripts. */
export function installPortkey(): void {
  if (existsSync(PROGRAM)) return;
  mkdirSync(FOLDER, { recursive: true });
  const manifest = { private: true, dependencies: { [GATEWAY]: VERSION }, overrides: PINNED };
  writeFileSync(join(FOLDER, 'package.json'), JSON.stringify(manifest));
  const npm = 'npm install --ignore-scripts --no-audit --no-fund';
  execFileSync(npm, { cwd: FOLDER, stdio: 'inherit', shell: true });
}

/** Starts one process of it, fenced to the loopback. */
export function startPortkey(): Promise<Measured> {
  return startProgram(PROGRAM, ['--headless'], { NODE_ENV: 'production' }, ['--import', FENCE]);
}

/** Where it forwards a call to. */
export function portkeyHeaders(upstreamPort: number): Record<string, string> {
  return {
    authorization: 'Bearer bench',
    'x-portkey-provider': 'openai',
    'x-portkey-custom-host': `http://127.0.0.1:${upstreamPort}/v1`,
  };
}
