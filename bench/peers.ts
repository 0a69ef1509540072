/**
 * `npm run bench:peers [-- --rounds N]`: calls of `/v1/chat/completions` through this server and through Portkey's
 * gateway, in front of the same stand-in model server, in alternating rounds of one run; and a streamed chunk of `/v1`
 * against one of the native route. MySQL or MariaDB as in `npm run bench`.
 */
import { availableParallelism, loadavg } from 'node:os';
import { readArguments } from '../src/util/command-line.ts';
import { compare, cost, median } from './compare.ts';
import { benchDatabases } from './databases.ts';
import { type Call, percentile, run } from './load.ts';
import { installPortkey, PORTKEY, portkeyHeaders, startPortkey } from './portkey.ts';
import { type Measured, startPeer, startSubject } from './processes.ts';

const USAGE = 'usage: npm run bench:peers -- [--rounds 9]';
const { values } = readArguments(USAGE, { options: { rounds: { type: 'string', default: '9' } } });
const ROUNDS = Number(values.rounds);
const WARM_UP_CALLS = 3000;
const CALLS = 300;
/** Of one caller, in a round; there are three times as many rounds, because they are short. */
const SINGLE_CALLS = 100;
/** Callers at the same time, from few to more than either server can take within {@link P99_MS}. */
const CALLERS = [1, 2, 4, 6, 8, 12, 16, 24];
const P99_MS = 10;
const STREAMS = 128;
const STREAM_MS = 400;
const CHUNKS = 200;

interface Endpoint {
  readonly name: string;
  call(): Call;
}

let asked = 0;

function endpoint(
  name: string,
  port: number,
  more: object = {},
  headers: Record<string, string> = {},
): Endpoint {
  const call = () => {
    asked += 1;
    const messages = [{ role: 'user', content: `question ${asked}` }];
    const body = JSON.stringify({ model: 'stand-in', messages, ...more });
    return { port, path: '/v1/chat/completions', body, headers };
  };
  return { name, call };
}

const times = async ({ call }: Endpoint, calls: number, callers = 1) =>
  (await run(calls, callers, 0, call)).map(({ first }) => first);

/** What each endpoint adds to a call of one caller, ms: its median of a round less that of the stand-in. */
async function addedLatency(
  direct: Endpoint,
  endpoints: readonly Endpoint[],
): Promise<Map<Endpoint, number>> {
  const added = new Map(endpoints.map((one) => [one, [] as number[]]));
  for (let round = 0; round < ROUNDS * 3; round += 1) {
    const least = median(await times(direct, SINGLE_CALLS));
    for (const [one, list] of added) list.push(median(await times(one, SINGLE_CALLS)) - least);
  }
  return new Map([...added].map(([one, list]) => [one, median(list)]));
}

/** The most calls a second that each endpoint takes with a p99 below {@link P99_MS}. */
async function mostCalls(endpoints: readonly Endpoint[]): Promise<Map<Endpoint, number>> {
  const most = new Map(endpoints.map((one) => [one, [] as number[]]));
  for (let round = 0; round < ROUNDS; round += 1) {
    const best = new Map<Endpoint, number>();
    for (const callers of CALLERS) {
      for (const one of endpoints) {
        const calls = CALLS + callers * 50;
        const began = performance.now();
        const firsts = await times(one, calls, callers);
        const rate = (calls * 1000) / (performance.now() - began);
        if (percentile(firsts, 99) < P99_MS) best.set(one, Math.max(best.get(one) ?? 0, rate));
      }
    }
    for (const [one, list] of most) list.push(best.get(one) ?? 0);
  }
  return new Map([...most].map(([one, list]) => [one, median(list)]));
}

/** CPU of a streamed chunk on `/v1` and on the native route, stored, without Markdown form, µs. */
async function chunkCosts(server: Measured) {
  const streamed = endpoint('/v1', server.port, { stream: true });
  const native = () => {
    asked += 1;
    const body = JSON.stringify({ message: `question ${asked}`, cache: false, format: 'markdown' });
    return { port: server.port, path: '/api/chat-stream', body };
  };
  const { ours, base, ratio } = await compare(
    ROUNDS,
    4,
    () => cost(server, STREAMS, STREAM_MS, streamed.call),
    () => cost(server, STREAMS, STREAM_MS, native),
  );
  const microseconds = ({ cpuMs }: { cpuMs: number }) => (cpuMs * 1000) / CHUNKS;
  return { ours: microseconds(ours), base: microseconds(base), ratio };
}

interface Limit {
  readonly limit: number;
  /** Whether a figure must be at least the limit; else at most. */
  readonly atLeast?: boolean;
}

function row(what: string, [ours, base]: readonly [string, string], ratio: number, limits?: Limit): string {
  if (!Number.isFinite(ratio)) return `| ${what} | ${ours} | ${base} | not measurable | | |`;
  if (!limits) return `| ${what} | ${ours} | ${base} | ${ratio.toFixed(2)} × | | |`;
  const { limit, atLeast = false } = limits;
  const met = atLeast ? ratio >= limit : ratio <= limit;
  return `| ${what} | ${ours} | ${base} | ${ratio.toFixed(2)} × | ${atLeast ? '≥' : '≤'} ${limit} × | ${met ? 'yes' : '**no**'} |`;
}

const NOT_COUNTED = `Not counted as CPU: the stand-in, the caller and MariaDB, which have processes of their own on the same cores.
Counted for this server: its access log, and for "stored" SQLite. Portkey writes no log and stores nothing.
The gateway is pinned to packages of its time; on this Node they print a warning and may be slower than on an older one.
Not part of it: TLS, keys, rate limits, the content filter, retries, fallbacks and plugins; a connection is opened once.`;

installPortkey();
const databases = await benchDatabases();
const upstream = await startPeer('./upstream.ts');
const portkey = await startPortkey();
const subjects = [];
try {
  for (const { name, url } of databases.list)
    subjects.push({ name, server: await startSubject(upstream.port, url) });
  const [first] = subjects;
  if (!first) throw new Error('there is no database');

  const direct = endpoint('the stand-in', upstream.port);
  const peer = endpoint(PORTKEY, portkey.port, {}, portkeyHeaders(upstream.port));
  const forwarding = endpoint('forwarding', first.server.port, { store: false });
  const stored = subjects.map(({ name, server }) => endpoint(`stored, ${name}`, server.port));
  const rows: string[] = [];
  for (const one of [direct, peer, forwarding, ...stored]) await times(one, WARM_UP_CALLS, 4);

  const added = await addedLatency(direct, [peer, forwarding, ...stored]);
  const base = added.get(peer) ?? Number.NaN;
  const ms = (value: number) => `${value.toFixed(3)} ms`;
  for (const [one, value] of added) {
    if (one === peer) continue;
    const limit = one === forwarding ? 0.5 : 1;
    rows.push(row(`added latency, one caller, ${one.name}`, [ms(value), ms(base)], value / base, { limit }));
  }

  const most = await mostCalls([peer, forwarding]);
  const [theirs = 0, ours = 0] = most.values();
  const perSecond = (value: number) => `${value.toFixed(0)}/s`;
  rows.push(
    row(
      `calls a second with p99 below ${P99_MS} ms, forwarding`,
      [perSecond(ours), perSecond(theirs)],
      ours / theirs,
      { limit: 1.5, atLeast: true },
    ),
  );

  const costs = await compare(
    ROUNDS,
    1,
    () => cost(first.server, CALLS * 4, 0, forwarding.call),
    () => cost(portkey, CALLS * 4, 0, peer.call),
  );
  rows.push(row('CPU per call, forwarding', [ms(costs.ours.cpuMs), ms(costs.base.cpuMs)], costs.ratio));

  for (const { name, server } of subjects) {
    const chunk = await chunkCosts(server);
    const us = (value: number) => `${value.toFixed(1)} µs`;
    const figures = [us(chunk.ours), `${us(chunk.base)} (native)`] as const;
    rows.push(row(`CPU per streamed chunk, stored, ${name}`, figures, chunk.ratio, { limit: 1.05 }));
  }

  const day = new Date().toISOString().slice(0, 10);
  const load = loadavg()[0]?.toFixed(1);
  console.log(
    `\n${day}, Node ${process.version}, ${availableParallelism()} cores, load average ${load}; ${ROUNDS} rounds\n`,
  );
  console.log(`| figure | this server | ${PORTKEY} | ratio | limit | met |\n|---|---|---|---|---|---|`);
  console.log(`${rows.join('\n')}\n\n${NOT_COUNTED}`);
} finally {
  await Promise.all([portkey.stop(), ...subjects.map(({ server }) => server.stop())]);
  await Promise.all([upstream.stop(), databases.stop()]);
}
