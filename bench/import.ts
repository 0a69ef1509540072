/**
 * `npm run bench:import [-- --messages 500000] [-- --rounds 3]`: measures `npm run import` next to `npm run export` of
 * the same messages, in alternating rounds, and the event loop of a server that imports. Uses a private MariaDB, or
 * BENCH_DATABASE_URL.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { openAsBlob } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import packageJson from '../package.json' with { type: 'json' };
import { readArguments } from '../src/util/command-line.ts';
import { median } from './compare.ts';
import { benchDatabases } from './databases.ts';
import { fill } from './export-data.ts';
import { startPeer, startSubject } from './processes.ts';

const USAGE = 'usage: npm run bench:import -- [--messages 500000] [--rounds 3]';
const { values: flags } = readArguments(USAGE, {
  options: {
    messages: { type: 'string', default: '500000' },
    rounds: { type: 'string', default: '3' },
  },
});
const MESSAGES = Number(flags.messages);
const ROUNDS = Number(flags.rounds);
/** Of the import through the API; its body has a limit. */
const API_MESSAGES = Math.min(MESSAGES, 100_000);
const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** Printed by the measured process when it ends. */
const PEAK = `data:text/javascript,process.on('exit', () => process.stderr.write('peak ' + process.resourceUsage().maxRSS + '\\n'))`;

interface Run {
  readonly seconds: number;
  readonly peakMb: number;
}

/** As npm runs it. */
async function command(script: 'import' | 'export', url: string, ...args: string[]): Promise<Run> {
  const words = packageJson.scripts[script].split(' ').slice(1);
  const env = { ...process.env, DATABASE_URL: url, CONVERSATION_TTL_HOURS: '0' };
  const began = performance.now();
  const child = spawn(process.execPath, ['--import', PEAK, ...words, ...args], { cwd: ROOT, env });
  let errors = '';
  child.stdout.resume();
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`${script} ended with ${code}: ${errors}`);
  const peak = Number(/peak (\d+)/.exec(errors)?.[1]);
  return { seconds: (performance.now() - began) / 1000, peakMb: peak / 1024 };
}

/** Milliseconds of the longest tick while a server on SQLite imports a file. */
async function longestTick(path: string): Promise<number> {
  const upstream = await startPeer('./upstream.ts');
  const server = await startSubject(upstream.port, undefined, { CONVERSATION_TTL_HOURS: '0' });
  try {
    await server.watch();
    const response = await fetch(`http://127.0.0.1:${server.port}/api/imports`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body: await openAsBlob(path),
    });
    const counts = await response.text();
    if (!counts.includes(`"messages":${API_MESSAGES},`)) throw new Error(`the server imported ${counts}`);
    return (await server.watched()).loopMaxMs;
  } finally {
    await server.stop();
    await upstream.stop();
  }
}

const rows: string[][] = [];
const add = (what: string, figure: string, limit = '', met?: boolean) =>
  rows.push([what, figure, limit, met === undefined ? '' : met ? 'yes' : '**no**']);

const folder = await mkdtemp(join(tmpdir(), 'chat-api-bench-import-'));
const databases = await benchDatabases();
const [, { name = '', url = '' } = {}] = databases.list;
try {
  const path = join(folder, 'all.ndjson');
  const few = join(folder, 'few.ndjson');
  const empty = join(folder, 'empty.ndjson');
  await writeFile(empty, '');
  const server = await startSubject(0, url);
  await server.stop();
  await fill(url, API_MESSAGES);
  await command('export', url, '--format', 'ndjson', '--out', few);
  await databases.empty();
  await fill(url, MESSAGES);
  const idle = (await command('import', url, empty)).peakMb;
  const exports: Run[] = [];
  const imports: Run[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    exports.push(await command('export', url, '--format', 'ndjson', '--out', path, '--restart'));
    await databases.empty();
    imports.push(await command('import', url, path));
  }
  const again = await command('import', url, path);
  const ratio = median(imports.map(({ seconds }, at) => seconds / (exports[at]?.seconds ?? Number.NaN)));
  const seconds = median(imports.map((run) => run.seconds));
  const peak = Math.max(...imports.map(({ peakMb }) => peakMb)) - idle;
  const count = MESSAGES.toLocaleString('en');
  add(`${count}: export`, `${median(exports.map((run) => run.seconds)).toFixed(2)} s`);
  const rate = Math.round(MESSAGES / seconds).toLocaleString('en');
  add(
    `${count}: import`,
    `${seconds.toFixed(2)} s, ${ratio.toFixed(2)} ×, ${rate} messages/s`,
    '3 ×',
    ratio <= 3,
  );
  add(`${count}: peak memory over an empty file`, `${peak.toFixed(0)} MB`, '64 MB', peak <= 64);
  add(`${count}: the same file again`, `${again.seconds.toFixed(2)} s`);
  const tick = await longestTick(few);
  add(
    `${API_MESSAGES.toLocaleString('en')}, API, SQLite: longest tick`,
    `${tick.toFixed(0)} ms`,
    '50 ms',
    tick <= 50,
  );
} finally {
  await databases.stop();
  await rm(folder, { recursive: true, force: true });
}
const machine = `${new Date().toISOString().slice(0, 10)}, Node ${process.version}, ${availableParallelism()} cores (${cpus()[0]?.model.trim() ?? 'unknown'}), ${name}; median of ${ROUNDS}`;
const lines = rows.map((row) => `| ${row.join(' | ')} |`);
console.log(['', machine, '', '| import | figure | limit | met |', '|---|---|---|---|', ...lines].join('\n'));
