/**
 * `npm run bench [-- --quick] [-- --json FILE]`: measures the server next to a bare node:http pipe and a bare Express
 * route, in one run, on SQLite and on MySQL or MariaDB (BENCH_DATABASE_URL, else a private mariadbd).
 */
import { writeFile } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import { readArguments } from '../src/util/command-line.ts';
import { CONCURRENCY, compare, cost, median } from './compare.ts';
import { benchDatabases } from './databases.ts';
import { replayMs, resumeMs } from './durability.ts';
import { type Call, hold, percentile } from './load.ts';
import { type Measured, startPeer, startSubject } from './processes.ts';
import { startProtected } from './protected.ts';

const USAGE = 'usage: npm run bench -- [--quick] [--json FILE]';
const { values: flags } = readArguments(USAGE, {
  options: { quick: { type: 'boolean', default: false }, json: { type: 'string' } },
});
const ROUNDS = flags.quick ? 1 : 3;
const WARM_UP_ROUNDS = flags.quick ? 1 : 4;
const STREAMS = flags.quick ? 64 : 160;
const CALLS = flags.quick ? 1000 : 4000;
/** Duration of one stream: 200 chunks, 2 ms apart. */
const STREAM_MS = 400;
const HELD = flags.quick ? 500 : 2000;

interface Row {
  readonly what: string;
  readonly database: string;
  readonly ours: number;
  readonly base: number;
  readonly unit: string;
  readonly compare: 'ratio' | 'difference' | 'none';
  readonly atMost: number;
}

const openAi = (text: string, stream: boolean) =>
  JSON.stringify({
    model: 'stand-in',
    messages: [{ role: 'user', content: text }],
    ...(stream ? { stream: true } : {}),
  });

async function streams(subject: Measured, pipe: Measured, format: 'text' | 'markdown') {
  return compare(
    ROUNDS,
    WARM_UP_ROUNDS,
    () =>
      cost(subject, STREAMS, STREAM_MS, (i) => ({
        port: subject.port,
        path: '/api/chat-stream',
        body: JSON.stringify({ message: `question ${i}`, cache: false, format }),
      })),
    () =>
      cost(pipe, STREAMS, STREAM_MS, (i) => ({
        port: pipe.port,
        path: '/',
        body: openAi(`question ${i}`, true),
      })),
  );
}

/** The cost of API keys and rate limits for a cached chat. */
async function keysAndLimits(subject: Measured, upstreamPort: number, databaseUrl: string | undefined) {
  const other = await startProtected(upstreamPort, databaseUrl);
  const body = JSON.stringify({ message: 'the same question' });
  const call = (server: Measured, headers = {}) =>
    cost(server, CALLS, 0, () => ({ port: server.port, path: '/api/chat', body, headers }));
  try {
    return await compare(
      ROUNDS,
      WARM_UP_ROUNDS,
      () => call(other, other.headers),
      () => call(subject),
    );
  } finally {
    await other.stop();
  }
}

async function heldMemory(server: Measured, call: Call): Promise<number> {
  const before = await server.sample(true);
  const held = await hold(HELD, call);
  const after = await server.sample(true);
  held.close();
  return (after.rss - before.rss) / HELD / 1024;
}

async function measure(name: string, databaseUrl: string | undefined): Promise<Row[]> {
  const upstream = await startPeer('./upstream.ts');
  const pipe = await startPeer('./pipe.ts', String(upstream.port));
  const bare = await startPeer('./bare-express.ts');
  const subject = await startSubject(upstream.port, databaseUrl);
  const row = (
    what: string,
    ours: number,
    base: number,
    unit: string,
    how: Row['compare'],
    atMost: number,
  ): Row => ({
    what,
    database: name,
    ours,
    base,
    unit,
    compare: how,
    atMost,
  });
  const chat = (body: object): Call => ({
    port: subject.port,
    path: '/api/chat',
    body: JSON.stringify(body),
  });
  try {
    const text = await streams(subject, pipe, 'text');
    const markdown = await streams(subject, pipe, 'markdown');
    const json = await compare(
      ROUNDS,
      WARM_UP_ROUNDS,
      () => cost(subject, CALLS, 0, (i) => chat({ message: `question ${i}`, cache: false })),
      () =>
        cost(pipe, CALLS, 0, (i) => ({ port: pipe.port, path: '/', body: openAi(`question ${i}`, false) })),
    );
    const cached = await compare(
      ROUNDS,
      WARM_UP_ROUNDS,
      () => cost(subject, CALLS, 0, () => chat({ message: 'the same question' })),
      () =>
        cost(bare, CALLS, 0, () => ({
          port: bare.port,
          path: '/api/chat',
          body: '{"message":"the same question"}',
        })),
    );
    const keys = await keysAndLimits(subject, upstream.port, databaseUrl);
    const ourMemory = await heldMemory(subject, {
      port: subject.port,
      path: '/api/chat-stream',
      body: '{"message":"hold the line","cache":false}',
    });
    const pipeMemory = await heldMemory(pipe, {
      port: pipe.port,
      path: '/',
      body: openAi('hold the line', true),
    });
    const resume = await resumeMs(subject.port, subject.databaseUrl);
    const replay = await replayMs(subject.databaseUrl);
    return [
      row(
        'CPU per streamed reply, text, against the pipe',
        text.ours.cpuMs,
        text.base.cpuMs,
        'ms',
        'ratio',
        1.4,
      ),
      row(
        'CPU per streamed reply, markdown, against the pipe',
        markdown.ours.cpuMs,
        markdown.base.cpuMs,
        'ms',
        'ratio',
        1.4,
      ),
      row(
        'time to first token p50, over the pipe',
        median(text.ours.firsts),
        median(text.base.firsts),
        'ms',
        'difference',
        3,
      ),
      row(
        'time to first token p99, over the pipe',
        percentile(text.ours.firsts, 99),
        percentile(text.base.firsts, 99),
        'ms',
        'difference',
        Number.NaN,
      ),
      row(
        'CPU per JSON chat, uncached, stored, against the pipe',
        json.ours.cpuMs,
        json.base.cpuMs,
        'ms',
        'ratio',
        4,
      ),
      row(
        'CPU per cached chat, stored, against bare Express',
        cached.ours.cpuMs,
        cached.base.cpuMs,
        'ms',
        'ratio',
        3,
      ),
      row(
        'CPU per cached chat with keys and limits, against without',
        keys.ours.cpuMs,
        keys.base.cpuMs,
        'ms',
        'ratio',
        1.15,
      ),
      row(
        `memory per open stream at ${HELD} open (next to it: the pipe)`,
        ourMemory,
        pipeMemory,
        'KB',
        'none',
        40,
      ),
      row('resuming a reply of 100 KB at its middle, p50', resume, Number.NaN, 'ms', 'none', 50),
      row('journal: replaying 10,000 turns', replay, Number.NaN, 'ms', 'none', 10_000),
    ];
  } finally {
    await Promise.all([subject.stop(), pipe.stop(), bare.stop()]);
    await upstream.stop();
  }
}

function figure(row: Row): { value: number; shown: string } {
  const value =
    row.compare === 'ratio'
      ? row.ours / row.base
      : row.compare === 'difference'
        ? row.ours - row.base
        : row.ours;
  const shown =
    row.compare === 'ratio'
      ? `${value.toFixed(2)} ×`
      : `${row.compare === 'difference' && value >= 0 ? '+' : ''}${value.toFixed(1)} ${row.unit}`;
  return { value, shown };
}

function table(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const { value, shown } = figure(row);
    const limit = Number.isNaN(row.atMost)
      ? ''
      : row.compare === 'ratio'
        ? `${row.atMost} ×`
        : `${row.atMost} ${row.unit}`;
    const verdict = Number.isNaN(row.atMost) ? '' : value <= row.atMost ? 'yes' : '**no**';
    const digits = row.unit === 'ms' ? 3 : 1;
    const baseline = Number.isNaN(row.base) ? '' : `${row.base.toFixed(digits)} ${row.unit}`;
    return `| ${row.what} | ${row.database} | ${row.ours.toFixed(digits)} ${row.unit} | ${baseline} | ${shown} | ${limit} | ${verdict} |`;
  });
  return [
    '| scenario | database | server | baseline | figure | limit | met |',
    '|---|---|---|---|---|---|---|',
    ...lines,
  ].join('\n');
}

const rows: Row[] = [];
const databases = await benchDatabases();
try {
  for (const { name, url } of databases.list) rows.push(...(await measure(name, url)));
} finally {
  await databases.stop();
}
const machine = `${new Date().toISOString().slice(0, 10)}, Node ${process.version}, ${availableParallelism()} cores (${cpus()[0]?.model.trim() ?? 'unknown'})`;
console.log(
  `\n${machine}; ${CONCURRENCY} concurrent, ${ROUNDS} × ${STREAMS} streams of 200 chunks, 2 ms apart, ${ROUNDS} × ${CALLS} calls\n`,
);
console.log(table(rows));
if (flags.json !== undefined) await writeFile(flags.json, `${JSON.stringify({ machine, rows }, null, 2)}\n`);
