/**
 * `npm run bench:scrape`: scrapes /metrics with 2,000 streams open and 50 models in use, with both sets of names; one
 * worker, then two that share a folder. Prints time and CPU of a scrape, its size, and the longest tick of the server in
 * twenty scrapes, beside that of a quiet time: the medians of five rounds, because programs that share the cores
 * lengthen single ticks.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readArguments } from '../src/util/command-line.ts';
import { type Call, hold, percentile, run } from './load.ts';
import { type Measured, startPeer, startSubject } from './processes.ts';

const USAGE = 'usage: npm run bench:scrape';
readArguments(USAGE, {});

const HELD = 2000;
const MODELS = 50;
const SCRAPES = 20;
const ROUNDS = 5;
const QUIET_MS = 2000;

const chat = ({ port }: Measured, body: object): Call => ({
  port,
  path: '/api/chat',
  body: JSON.stringify({ cache: false, ...body }),
});

async function useModels(server: Measured): Promise<void> {
  await run(2 * MODELS, 8, 0, (n) => chat(server, { message: 'hello', model: `model-${n % MODELS}` }));
}

async function scrape({ port }: Measured): Promise<{ ms: number; bytes: number }> {
  const began = performance.now();
  const response = await fetch(`http://127.0.0.1:${port}/metrics`);
  const { length } = await response.text();
  return { ms: performance.now() - began, bytes: length };
}

/** The longest tick while `work` runs, ms. */
async function longestTick(server: Measured, work: () => Promise<void>): Promise<number> {
  await server.watch();
  await work();
  return (await server.watched()).loopMaxMs;
}

interface Round {
  readonly times: readonly number[];
  readonly bytes: number;
  /** Of a scrape. */
  readonly cpuMs: number;
  readonly tick: number;
  readonly quiet: number;
}

async function measureRound(server: Measured): Promise<Round> {
  const quiet = await longestTick(server, () => new Promise((resolve) => setTimeout(resolve, QUIET_MS)));
  const scrapes: { ms: number; bytes: number }[] = [];
  const before = await server.sample();
  const tick = await longestTick(server, async () => {
    for (let n = 0; n < SCRAPES; n += 1) scrapes.push(await scrape(server));
  });
  const after = await server.sample();
  const cpuMs = (after.cpuMs - before.cpuMs) / SCRAPES;
  return { times: scrapes.map(({ ms }) => ms), bytes: scrapes[0]?.bytes ?? 0, cpuMs, tick, quiet };
}

async function measure(
  upstreamPort: number,
  workers: number,
  names: string,
): Promise<Record<string, string>> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-api-scrape-'));
  const env = { DATA_DIR: folder, METRICS_GENAI: names };
  const servers: Measured[] = [];
  try {
    for (let n = 0; n < workers; n += 1) servers.push(await startSubject(upstreamPort, undefined, env));
    const [server] = servers;
    if (!server) throw new Error('no server');
    for (const one of servers) await useModels(one);
    const body = JSON.stringify({ message: 'hold the line', cache: false });
    const held = await hold(HELD, { port: server.port, path: '/api/chat-stream', body });
    // The first one loads the library.
    for (let n = 0; n < 3; n += 1) await scrape(server);
    const rounds: Round[] = [];
    for (let n = 0; n < ROUNDS; n += 1) rounds.push(await measureRound(server));
    held.close();
    const median = (of: (round: Round) => number) => percentile(rounds.map(of), 50);
    return {
      workers: String(workers),
      names,
      'scrape p50': `${median(({ times }) => percentile(times, 50)).toFixed(1)} ms`,
      'scrape max': `${median(({ times }) => Math.max(...times)).toFixed(1)} ms`,
      CPU: `${median(({ cpuMs }) => cpuMs).toFixed(1)} ms`,
      size: `${Math.round(median(({ bytes }) => bytes) / 1024)} KB`,
      'longest tick': `${median(({ tick }) => tick).toFixed(1)} ms`,
      'longest tick, quiet': `${median(({ quiet }) => quiet).toFixed(1)} ms`,
    };
  } finally {
    await Promise.all(servers.map((server) => server.stop()));
    await rm(folder, { recursive: true, force: true });
  }
}

const upstream = await startPeer('./upstream.ts');
const rows: Record<string, string>[] = [];
try {
  for (const workers of [1, 2]) {
    for (const names of ['old', 'new']) rows.push(await measure(upstream.port, workers, names));
  }
} finally {
  await upstream.stop();
}
console.table(rows);
