/**
 * `npm run bench:export [-- --messages 500000,5000000] [-- --rounds 3] [-- --json FILE]`: measures exports of the
 * running server next to the database's own client, in one run. Uses a private MariaDB, or BENCH_DATABASE_URL.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { get } from 'node:http';
import { availableParallelism, cpus, devNull } from 'node:os';
import { readArguments } from '../src/util/command-line.ts';
import { median } from './compare.ts';
import { benchDatabases } from './databases.ts';
import { fill, lastCreatedOf } from './export-data.ts';
import { percentile, run } from './load.ts';
import { type Measured, startPeer, startSubject } from './processes.ts';

const USAGE = 'usage: npm run bench:export -- [--messages 500000,5000000] [--rounds 3] [--json FILE]';
const { values: flags } = readArguments(USAGE, {
  options: {
    messages: { type: 'string', default: '500000,5000000' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'string' },
  },
});
const ROUNDS = Number(flags.rounds);
const CHATS = 6000;
/** 50,000 messages. */
const FEW = `format=csv&end_date=${lastCreatedOf(5000)}`;

/** The columns of an export, for the database's own client. */
const SAME_COLUMNS = `SELECT m.conversation_id, c.created_at, c.last_active, m.uid, m.role, m.content, m.timestamp, m.status
  FROM messages m JOIN conversations c ON c.id = m.conversation_id`;

interface Run {
  readonly ms: number;
  readonly firstByteMs: number;
  readonly bytes: number;
  readonly peakMb: number;
  readonly loopP99Ms: number;
}

/** Seconds that `mariadb --batch` takes; its output is discarded. */
async function dump(url: string): Promise<number> {
  const { hostname, port, username, password, pathname } = new URL(url);
  const args = [
    '--batch',
    '--quick',
    '--skip-column-names',
    '-h',
    hostname,
    '-P',
    port,
    '-u',
    username,
    '-e',
    SAME_COLUMNS,
  ];
  const env = { ...process.env, ...(password ? { MYSQL_PWD: decodeURIComponent(password) } : {}) };
  const began = performance.now();
  const child = spawn('mariadb', [...args, '--default-character-set=utf8mb4', pathname.slice(1)], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  child.stdout.pipe(createWriteStream(devNull));
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`mariadb exited with ${code}`);
  return (performance.now() - began) / 1000;
}

async function download(server: Measured, query: string): Promise<Run> {
  const idle = await server.sample(true);
  await server.watch();
  const began = performance.now();
  const request = get({
    host: '127.0.0.1',
    port: server.port,
    path: `/api/conversations/export-all?${query}`,
  });
  const [response] = await once(request, 'response');
  if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`);
  let bytes = 0;
  let firstByteMs = 0;
  for await (const chunk of response) {
    if (bytes === 0) firstByteMs = performance.now() - began;
    bytes += chunk.length;
  }
  const ms = performance.now() - began;
  const { peakRss, loopP99Ms } = await server.watched();
  return { ms, firstByteMs, bytes, peakMb: (peakRss - idle.rss) / 2 ** 20, loopP99Ms };
}

/** Latencies in milliseconds of chats that call the stand-in and are stored, from two concurrent callers. */
async function chats(server: Measured, until: Promise<unknown> | undefined): Promise<number[]> {
  const found: number[] = [];
  let over = false;
  void until?.finally(() => {
    over = true;
  });
  do {
    const timings = await run(100, 2, 0, (i) => ({
      port: server.port,
      path: '/api/chat',
      body: JSON.stringify({ message: `question ${i}`, cache: false }),
    }));
    found.push(...timings.map(({ first }) => first));
  } while (until ? !over : found.length < CHATS);
  return found;
}

/** The p99 of chats without and with exports at the same time. */
async function chatLatencies(server: Measured): Promise<{ quiet: number; busy: number }> {
  await chats(server, undefined);
  const quiet = percentile(await chats(server, undefined), 99);
  const busy: number[] = [];
  while (busy.length < CHATS) busy.push(...(await chats(server, download(server, FEW))));
  return { quiet, busy: percentile(busy, 99) };
}

const rows: string[][] = [];
const add = (what: string, figure: string, atMost: string, met: boolean | undefined) =>
  rows.push([what, figure, atMost, met === undefined ? '' : met ? 'yes' : '**no**']);

async function measure(server: Measured, url: string, messages: number): Promise<number> {
  const name = messages.toLocaleString('en');
  const dumps: number[] = [];
  const runs = { csv: [] as Run[], ndjson: [] as Run[] };
  for (let round = 0; round < ROUNDS; round += 1) {
    dumps.push(await dump(url));
    runs.csv.push(await download(server, 'format=csv'));
    runs.ndjson.push(await download(server, 'format=ndjson'));
  }
  const client = median(dumps);
  add(`${name}: \`mariadb --batch\``, `${client.toFixed(2)} s`, '', undefined);
  for (const [format, limit] of [
    ['csv', 2.5],
    ['ndjson', 2],
  ] as const) {
    const seconds = median(runs[format].map(({ ms }) => ms)) / 1000;
    const mb = (runs[format][0]?.bytes ?? 0) / 2 ** 20;
    const figure = `${seconds.toFixed(2)} s, ${(seconds / client).toFixed(2)} ×, ${Math.round(messages / seconds).toLocaleString('en')} rows/s, ${mb.toFixed(0)} MB`;
    const judged = messages === 500_000;
    add(
      `${name}: ${format}`,
      figure,
      judged ? `${limit} ×` : '',
      judged ? seconds / client <= limit : undefined,
    );
  }
  const all = [...runs.csv, ...runs.ndjson];
  const peak = Math.max(...all.map(({ peakMb }) => peakMb));
  const first = Math.max(...all.map(({ firstByteMs }) => firstByteMs));
  const loop = Math.max(...all.map(({ loopP99Ms }) => loopP99Ms));
  add(`${name}: peak memory over idle`, `${peak.toFixed(0)} MB`, '64 MB', peak <= 64);
  add(`${name}: first byte, slowest`, `${first.toFixed(0)} ms`, '100 ms', first <= 100);
  add(`${name}: event-loop delay p99, worst`, `${loop.toFixed(1)} ms`, '20 ms', loop <= 20);
  return peak;
}

const databases = await benchDatabases();
const upstream = await startPeer('./upstream.ts');
try {
  const url = databases.list[1]?.url;
  if (url === undefined) throw new Error('MariaDB or MySQL is required');
  const server = await startSubject(upstream.port, url, { CONVERSATION_TTL_HOURS: '0' });
  const peaks: number[] = [];
  let filled = 0;
  for (const messages of flags.messages.split(',').map(Number)) {
    if (filled > 0) await databases.empty();
    await fill(url, messages);
    filled = messages;
    await download(server, FEW);
    peaks.push(await measure(server, url, messages));
    if (messages <= 500_000) {
      const { quiet, busy } = await chatLatencies(server);
      const figure = `${busy.toFixed(1)} ms, ${(busy / quiet).toFixed(2)} ×`;
      add(
        `${messages.toLocaleString('en')}: p99 of chats during exports`,
        figure,
        '1.5 ×',
        busy / quiet <= 1.5,
      );
    }
    const few: Run[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      few.push(await download(server, FEW));
    }
    const seconds = median(few.map(({ ms }) => ms)) / 1000;
    add(`50,000 of ${messages.toLocaleString('en')}: csv`, `${seconds.toFixed(2)} s`, '1 s', seconds <= 1);
  }
  const [small, large] = peaks;
  if (small !== undefined && large !== undefined) {
    const apart = Math.abs(large - small);
    add('peak memory, difference', `${apart.toFixed(0)} MB`, '10 MB', apart <= 10);
  }
  await server.stop();
} finally {
  await upstream.stop();
  await databases.stop();
}
const machine = `${new Date().toISOString().slice(0, 10)}, Node ${process.version}, ${availableParallelism()} cores (${cpus()[0]?.model.trim() ?? 'unknown'}), ${databases.list[1]?.name}; median of ${ROUNDS}`;
const lines = rows.map((row) => `| ${row.join(' | ')} |`);
console.log(['', machine, '', '| export | figure | limit | met |', '|---|---|---|---|', ...lines].join('\n'));
if (flags.json !== undefined) await writeFile(flags.json, `${JSON.stringify({ machine, rows }, null, 2)}\n`);
