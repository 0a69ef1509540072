/**
 * `npm run bench:start -- [--rounds N] [OTHER]`: CPU time (user and system) of the server until /health answers, on
 * SQLite with the demo model and a warm cache. With the folder of another checkout it measures both in alternating
 * rounds and prints the ratio.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { readArguments } from '../src/util/command-line.ts';

const USAGE = 'usage: npm run bench:start -- [--rounds 10] [OTHER_CHECKOUT]';
const { values, positionals } = readArguments(USAGE, {
  options: { rounds: { type: 'string', default: '10' } },
  allowPositionals: true,
});

/** Reports the CPU time of the process on any message, in ms. */
const REPORTER = `
  process.on('message', () => {
    const { user, system } = process.cpuUsage();
    process.send({ ms: (user + system) / 1000 });
  });`;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  if (typeof address !== 'object' || address === null) throw new Error('no port');
  return address.port;
}

async function untilHealthy(port: number): Promise<void> {
  for (;;) {
    const response = await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined);
    await response?.text();
    if (response?.ok) return;
    await delay(10);
  }
}

/** CPU time of one start of the checkout, ms. */
async function start(checkout: string, folder: string): Promise<number> {
  const port = await freePort();
  const { PATH, HOME, TMPDIR, SYSTEMROOT } = process.env;
  const child = fork(join(checkout, 'src', 'main.ts'), {
    cwd: folder,
    env: { PATH, HOME, TMPDIR, SYSTEMROOT, PORT: `${port}`, LOG_FORMAT: 'json' },
    execArgv: [
      '--max-semi-space-size=16',
      '--import',
      `data:text/javascript,${encodeURIComponent(REPORTER)}`,
    ],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  try {
    await untilHealthy(port);
    // The first message is "ready".
    child.send('cpu');
    for (;;) {
      const [message] = await once(child, 'message');
      if (typeof message === 'object' && 'ms' in message) return Number(message.ms);
    }
  } finally {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
}

const median = (list: readonly number[]): number => list.toSorted((a, b) => a - b)[list.length >> 1] ?? 0;

const checkouts = [
  resolve(import.meta.dirname, '..'),
  ...positionals.slice(0, 1).map((path) => resolve(path)),
];
const trees = checkouts.map((checkout) => ({
  checkout,
  folder: mkdtempSync(join(tmpdir(), 'chat-bench-start-')),
  times: [] as number[],
}));
try {
  // The first round fills the caches and creates the tables; it is not measured.
  for (let round = 0; round <= Number(values.rounds); round += 1) {
    for (const { checkout, folder, times } of trees) {
      const ms = await start(checkout, folder);
      if (round > 0) times.push(ms);
    }
  }
  for (const { checkout, times } of trees) {
    console.log(`${median(times).toFixed(0)} ms of CPU (${times.length} starts, median): ${checkout}`);
  }
  const [own, other] = trees.map(({ times }) => median(times));
  if (own !== undefined && other !== undefined) console.log(`ratio ${((100 * own) / other).toFixed(0)} %`);
} finally {
  for (const { folder } of trees) rmSync(folder, { recursive: true, force: true });
}
