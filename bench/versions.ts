/**
 * `npm run bench:versions -- [--rounds N] OTHER`: CPU of streamed, JSON and cached chats and of exports of this version
 * against that of another checkout, in alternating rounds of one run, on SQLite and on MySQL or MariaDB
 * (BENCH_DATABASE_URL, else a private mariadbd). Both servers are the same distance from the stand-in model server.
 * Exports are measured on MySQL or MariaDB only.
 */
import { once } from 'node:events';
import { get } from 'node:http';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { compare, cost, median } from './compare.ts';
import { benchDatabases } from './databases.ts';
import { fill } from './export-data.ts';
import { type Measured, startPeer, startSubject } from './processes.ts';

const USAGE = 'usage: npm run bench:versions -- [--rounds 7] OTHER_CHECKOUT';
const { values: flags, positionals } = readArguments(USAGE, {
  options: { rounds: { type: 'string', default: '7' } },
  allowPositionals: true,
});
const [other] = positionals;
if (other === undefined) failUsage('Another checkout is needed', USAGE);
const ROUNDS = Number(flags.rounds);
const WARM_UP_ROUNDS = 3;
const STREAMS = 128;
const STREAM_MS = 400;
const CALLS = 2000;
const EXPORTED_MESSAGES = 200_000;

/** The messages of exports are years old and must not expire. */
const KEEP = { CONVERSATION_TTL_HOURS: '0' };
const theirData = pathToFileURL(join(resolve(other), 'bench', 'export-data.ts')).href;
const { fill: fillPeer } = (await import(theirData)) as { fill: typeof fill };

let question = 0;
const fresh = () => {
  question += 1;
  return `question ${question}`;
};

type Scenario = readonly [name: string, call: (server: Measured) => ReturnType<typeof cost>];

const chatScenarios: readonly Scenario[] = [
  ...(['text', 'markdown'] as const).map(
    (format) =>
      [
        `streamed reply, ${format}`,
        (server: Measured) =>
          cost(server, STREAMS, STREAM_MS, () => ({
            port: server.port,
            path: '/api/chat-stream',
            body: JSON.stringify({ message: fresh(), cache: false, format }),
          })),
      ] as const,
  ),
  ['JSON chat, uncached', (server) => chats(server, () => ({ message: fresh(), cache: false }))],
  ['cached chat', (server) => chats(server, () => ({ message: 'the same question' }))],
];

const exportScenarios: readonly Scenario[] = (['csv', 'ndjson'] as const).map((format) => [
  `export of ${EXPORTED_MESSAGES} messages, ${format}`,
  (server) => download(server, format),
]);

function chats(server: Measured, body: () => object) {
  return cost(server, CALLS, 0, () => ({
    port: server.port,
    path: '/api/chat',
    body: JSON.stringify(body()),
  }));
}

/** One complete download; `first` is its duration. @throws Error when it is refused */
async function download(server: Measured, format: string): ReturnType<typeof cost> {
  const before = await server.sample();
  const began = performance.now();
  const path = `/api/conversations/export-all?format=${format}`;
  const [response] = await once(get({ host: '127.0.0.1', port: server.port, path }), 'response');
  if (response.statusCode !== 200) throw new Error(`an export got status ${response.statusCode}`);
  let bytes = 0;
  for await (const chunk of response) bytes += chunk.length;
  const first = performance.now() - began;
  const after = await server.sample();
  return { cpuMs: after.cpuMs - before.cpuMs, timings: [{ first, bytes }] };
}

/** Fills the emptied database of each server with the same messages, in the schema of its version. */
async function fillBoth(own: string, peer: string): Promise<void> {
  await Promise.all([ours.empty(), theirs.empty()]);
  await fill(own, EXPORTED_MESSAGES);
  await fillPeer(peer, EXPORTED_MESSAGES);
}

const ours = await benchDatabases('ours');
const theirs = await benchDatabases('theirs');
const upstream = await startPeer('./upstream.ts');
const rows: Record<string, string>[] = [];
try {
  for (const [index, { name, url }] of ours.list.entries()) {
    const theirUrl = theirs.list[index]?.url;
    const own = await startSubject(upstream.port, url, KEEP);
    const peer = await startSubject(upstream.port, theirUrl, KEEP, other);
    const measure = async (scenarios: readonly Scenario[]) => {
      for (const [scenario, call] of scenarios) {
        const costs = await compare(
          ROUNDS,
          WARM_UP_ROUNDS,
          () => call(own),
          () => call(peer),
        );
        const ms = (cpu: number) => `${cpu.toFixed(3)} ms`;
        rows.push({
          scenario,
          database: name,
          this: ms(costs.ours.cpuMs),
          other: ms(costs.base.cpuMs),
          ratio: `${costs.ratio.toFixed(2)} ×`,
          latency: `${(median(costs.ours.firsts) / median(costs.base.firsts)).toFixed(2)} ×`,
        });
        console.log(JSON.stringify(rows.at(-1)));
      }
    };
    try {
      await measure(chatScenarios);
      if (url !== undefined && theirUrl !== undefined) {
        await fillBoth(url, theirUrl);
        await measure(exportScenarios);
      }
    } finally {
      await Promise.all([own.stop(), peer.stop()]);
    }
  }
} finally {
  await upstream.stop();
  await Promise.all([ours.stop(), theirs.stop()]);
}
console.table(rows);
