/**
 * `npm run bench:versions -- [--rounds N] OTHER`: CPU of streamed, JSON and cached chats of this version against that
 * of another checkout, in alternating rounds of one run, on SQLite and on MySQL or MariaDB (BENCH_DATABASE_URL, else a
 * private mariadbd). Both servers are the same distance from the stand-in model server.
 */
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { compare, cost } from './compare.ts';
import { benchDatabases } from './databases.ts';
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

let question = 0;
const fresh = () => {
  question += 1;
  return `question ${question}`;
};

const scenarios: readonly (readonly [string, (server: Measured) => ReturnType<typeof cost>])[] = [
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

function chats(server: Measured, body: () => object) {
  return cost(server, CALLS, 0, () => ({
    port: server.port,
    path: '/api/chat',
    body: JSON.stringify(body()),
  }));
}

const ours = await benchDatabases('ours');
const theirs = await benchDatabases('theirs');
const upstream = await startPeer('./upstream.ts');
const rows: Record<string, string>[] = [];
try {
  for (const [index, { name, url }] of ours.list.entries()) {
    const own = await startSubject(upstream.port, url);
    const peer = await startSubject(upstream.port, theirs.list[index]?.url, {}, other);
    try {
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
        });
        console.log(JSON.stringify(rows.at(-1)));
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
