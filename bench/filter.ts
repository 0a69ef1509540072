/**
 * `npm run bench:filter [-- --rounds 5]`: the cost of a list of 100,000 words for a streamed reply and for the start.
 * Servers with and without the list are measured in alternating rounds, on SQLite.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readArguments } from '../src/util/command-line.ts';
import { percentile, run } from './load.ts';
import { type Measured, startPeer, startSubject } from './processes.ts';

const WORDS = 100_000;
const CONCURRENCY = 16;
const STREAMS = 160;
const STREAM_MS = 400;
const WARM_UP_ROUNDS = 4;
const USAGE = 'usage: npm run bench:filter -- [--rounds 5]';
const { values: flags } = readArguments(USAGE, { options: { rounds: { type: 'string', default: '5' } } });

const SETTINGS: Record<string, Record<string, string>> = {
  'no list': {},
  mask: { CONTENT_FILTER_OUTPUT: 'mask' },
  'mask, stored filtered': { CONTENT_FILTER_OUTPUT: 'mask', CONTENT_FILTER_STORE: 'filtered' },
};

/** The same words of 2 to 9 characters in each run, and one that the stand-in's reply contains. */
function someWords(): string {
  let seed = 1;
  const next = (below: number) => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  const word = () =>
    Array.from({ length: 2 + next(8) }, () => String.fromCharCode(0x4e00 + next(3500))).join('');
  return ['brown fox', ...Array.from({ length: WORDS }, word)].join('\n');
}

async function cpuPerStream(server: Measured, format: string): Promise<number> {
  const before = await server.sample();
  await run(STREAMS, CONCURRENCY, STREAM_MS, (i) => ({
    port: server.port,
    path: '/api/chat-stream',
    body: JSON.stringify({ message: `question ${i}`, cache: false, format }),
  }));
  return ((await server.sample()).cpuMs - before.cpuMs) / STREAMS;
}

async function started(upstream: Measured, env: Record<string, string>) {
  const at = performance.now();
  const server = await startSubject(upstream.port, undefined, env);
  return { server, startMs: performance.now() - at };
}

const folder = await mkdtemp(join(tmpdir(), 'chat-api-words-'));
const CONTENT_FILTER_FILE = join(folder, 'words.txt');
await writeFile(CONTENT_FILTER_FILE, someWords());
const upstream = await startPeer('./upstream.ts');
const subjects = [];
for (const [name, env] of Object.entries(SETTINGS)) {
  const file = name === 'no list' ? {} : { CONTENT_FILTER_FILE };
  subjects.push({ name, ...(await started(upstream, { ...env, ...file })) });
}
try {
  // The lowest value is shown too: on a shared machine it is the least disturbed one.
  console.log('| CPU per streamed reply of 200 chunks | format | median | ratio | lowest | ratio |');
  console.log('|---|---|---|---|---|---|');
  for (const format of ['text', 'markdown']) {
    const costs = new Map(subjects.map(({ name }) => [name, [] as number[]]));
    for (let round = -WARM_UP_ROUNDS; round < Number(flags.rounds); round += 1) {
      for (const { name, server } of subjects) {
        const ms = await cpuPerStream(server, format);
        if (round >= 0) costs.get(name)?.push(ms);
      }
    }
    const none = costs.get('no list') ?? [];
    for (const [name, all] of costs) {
      const figures = [50, 0].map((p) => {
        const ms = percentile(all, p);
        return `${ms.toFixed(2)} ms | ${(ms / percentile(none, p)).toFixed(2)} ×`;
      });
      console.log(`| ${name} | ${format} | ${figures.join(' | ')} |`);
    }
  }
  for (const { name, startMs } of subjects) console.log(`start, ${name}: ${Math.round(startMs)} ms`);
} finally {
  await Promise.all(subjects.map(({ server }) => server.stop()));
  await upstream.stop();
  await rm(folder, { recursive: true, force: true });
}
