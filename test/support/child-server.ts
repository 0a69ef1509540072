/** The server as operators start it: in its own process and folder. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parse } from 'dotenv';
import { plantSettings, recordLog } from './planted.ts';

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
const WAIT_MS = 45_000;

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface ChildServer {
  readonly process: ChildProcess;
  /** Log lines so far, parsed. */
  readonly lines: readonly Record<string, unknown>[];
  /** Lines on standard error so far. */
  readonly errors: readonly string[];
  /** Resolves with the first log line, past or future, whose message matches. */
  line(message: RegExp): Promise<Record<string, unknown>>;
  /** Resolves with the URL when the server has logged that it listens. */
  listening(): Promise<string>;
  exited(): Promise<Exit>;
}

export interface ChildFolder {
  readonly path: string;
  /** Starts the server here. Of the test's environment it gets only what a process needs to run. */
  start(env?: Record<string, string>): ChildServer;
  /** Ends the processes that still run, and removes the folder. */
  remove(): Promise<void>;
}

export async function makeFolder(): Promise<ChildFolder> {
  const path = await mkdtemp(join(tmpdir(), 'chat-api-child-'));
  const started: ChildServer[] = [];
  return {
    path,
    start(env = {}) {
      const child = startChild(path, env);
      started.push(child);
      return child;
    },
    async remove() {
      for (const child of started) {
        child.process.kill('SIGKILL');
        await child.exited();
      }
      // The log files that LOG_FILE names.
      for (const name of await readdir(path)) {
        if (name.endsWith('.log')) recordLog(await readFile(join(path, name), 'utf8'));
      }
      await rm(path, { recursive: true, force: true });
    },
  };
}

function startChild(cwd: string, env: Record<string, string>): ChildServer {
  const file = join(cwd, '.env');
  plantSettings({ ...(existsSync(file) ? parse(readFileSync(file)) : {}), ...env });
  const kept = [
    'PATH',
    'SYSTEMROOT',
    'TEMP',
    'TMP',
    'HOME',
    'NODE_COMPILE_CACHE',
    'NODE_DISABLE_COMPILE_CACHE',
  ];
  const inherited = Object.fromEntries(
    kept.flatMap((name) => Object.entries(process.env).filter(([key]) => key === name)),
  );
  const child = spawn(process.execPath, [MAIN], {
    cwd,
    env: { ...inherited, PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  const { stdout, stderr } = child;
  assert(stdout && stderr);
  const exit = once(child, 'close').then(([code, signal]): Exit => ({ code, signal }));
  const lines: Record<string, unknown>[] = [];
  const errors: string[] = [];
  const waiting = new Set<() => void>();
  let cut: string | undefined;
  createInterface({ input: stdout }).on('line', (text) => {
    recordLog(text);
    assert(cut === undefined, `not JSON: ${cut}`);
    try {
      lines.push(JSON.parse(text));
    } catch {
      // Only the last line may be cut, because the output of a process that exits can be lost.
      cut = text;
    }
    for (const look of waiting) look();
  });
  createInterface({ input: stderr }).on('line', (text) => {
    recordLog(text);
    errors.push(text);
  });

  const line = (message: RegExp) => {
    const { promise, resolve, reject } = Promise.withResolvers<Record<string, unknown>>();
    const look = () => {
      const found = lines.find(({ msg }) => message.test(String(msg)));
      if (found) resolve(found);
    };
    const missing = () =>
      reject(new Error(`no line ${message}:\n${JSON.stringify(lines)}\n${errors.join('\n')}`));
    const timer = setTimeout(missing, WAIT_MS);
    void exit.then(missing);
    waiting.add(look);
    look();
    return promise.finally(() => {
      clearTimeout(timer);
      waiting.delete(look);
    });
  };
  return {
    process: child,
    lines,
    errors,
    line,
    listening: async () => {
      const { url } = await line(/ listens on /);
      assert(typeof url === 'string');
      return url;
    },
    exited: () => exit,
  };
}
