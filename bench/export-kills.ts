/**
 * `npm run bench:export:kills [-- --messages 1000000] [-- --kills 10] [-- --seed S]`: kills (SIGKILL) an export job of
 * the server and an export of the command line at random moments. Both files must match their manifests and be
 * identical. Uses a private MariaDB, or BENCH_DATABASE_URL.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { readArguments } from '../src/util/command-line.ts';
import { randomFrom } from '../test/support/random.ts';
import { benchDatabases } from './databases.ts';
import { fill } from './export-data.ts';

const USAGE = 'usage: npm run bench:export:kills -- [--messages 1000000] [--kills 10] [--seed S]';
const { values: flags } = readArguments(USAGE, {
  options: {
    messages: { type: 'string', default: '1000000' },
    kills: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
});
const [messages, kills, seed] = [Number(flags.messages), Number(flags.kills), Number(flags.seed)];
const random = randomFrom(seed);
console.log(`${messages} messages, ${kills} kills each, --seed ${seed}`);

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = await mkdtemp(join(tmpdir(), 'chat-export-kills-'));

function run(env: Record<string, string>, script: string, ...args: string[]): ChildProcess {
  return spawn(process.execPath, [join(root, script), ...args], {
    cwd: folder,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

async function ended(child: ChildProcess): Promise<void> {
  child.stdout?.resume();
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  if (child.exitCode !== 0)
    throw new Error(`${child.spawnargs[1]} ended with ${child.exitCode ?? child.signalCode}`);
}

async function killed(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  await once(child, 'exit');
}

/** Starts a server and waits until it listens. */
async function serve(env: Record<string, string>): Promise<{ child: ChildProcess; url: string }> {
  const child = run({ ...env, PORT: '0', LOG_FORMAT: 'json' }, 'src/main.ts');
  if (!child.stdout) throw new Error('the child has no stdout');
  const lines = createInterface({ input: child.stdout });
  for await (const line of lines) {
    const url = /"url":"([^"]+)"/.exec(line)?.[1];
    if (url === undefined) continue;
    child.stdout.resume();
    return { child, url };
  }
  throw new Error('the server exited before it listened');
}

interface Job {
  readonly id: string;
  readonly status: string;
  readonly progress: { readonly messages: number };
}

async function job(url: string, id: string): Promise<Job> {
  const response = await fetch(`${url}/api/exports/${id}`);
  return (await response.json()) as Job;
}

async function jobWithKills(env: Record<string, string>): Promise<string> {
  let server = await serve(env);
  const begun = await fetch(`${server.url}/api/exports`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"format":"csv"}',
  });
  const { id } = (await begun.json()) as Job;
  for (let kill = 1; kill <= kills; kill += 1) {
    const before = (await job(server.url, id)).progress.messages;
    await delay(random.int(500, 8000));
    const { status, progress } = await job(server.url, id);
    await killed(server.child);
    console.log(`job, kill ${kill}: ${before} → ${progress.messages} messages, ${status}`);
    server = await serve(env);
  }
  while ((await job(server.url, id)).status !== 'done') await delay(500);
  server.child.kill('SIGTERM');
  await ended(server.child);
  return join(folder, 'data', 'exports', id);
}

async function commandWithKills(env: Record<string, string>): Promise<string> {
  const file = join(folder, 'command.csv');
  for (let kill = 1; kill <= kills && !existsSync(file); kill += 1) {
    const child = run(env, 'scripts/export.ts', '--format', 'csv', '--out', file);
    await Promise.race([delay(random.int(500, 8000)), once(child, 'exit')]);
    if (child.exitCode !== null) break;
    await killed(child);
    const state = `${file}.part.json`;
    const written = existsSync(state) ? JSON.parse(await readFile(state, 'utf8')).checkpoint.messages : 0;
    console.log(`command line, kill ${kill}: ${written} messages at the checkpoint`);
  }
  await ended(run(env, 'scripts/export.ts', '--format', 'csv', '--out', file));
  return file;
}

const databases = await benchDatabases();
try {
  const url = databases.list[1]?.url;
  if (url === undefined) throw new Error('MariaDB or MySQL is required');
  const env = {
    DATABASE_URL: url,
    DB_AUTO_MIGRATE: 'on',
    CONVERSATION_TTL_HOURS: '0',
    DATA_DIR: join(folder, 'data'),
  };
  const first = await serve(env);
  first.child.kill('SIGTERM');
  await ended(first.child);
  await fill(url, messages);
  const made = await jobWithKills(env);
  const command = await commandWithKills(env);
  await ended(run(env, 'scripts/export-verify.ts', `${made}.csv`, `${made}.manifest.json`));
  await ended(run(env, 'scripts/export-verify.ts', command, `${command}.manifest.json`));
  const [one, other] = await Promise.all(
    [made, command].map(async (place) => JSON.parse(await readFile(`${place}.manifest.json`, 'utf8'))),
  );
  if (one.messages !== messages || one.sha256 !== other.sha256) throw new Error('the two files differ');
  console.log(`both verify: ${one.messages} messages, ${one.bytes} bytes, sha256 ${one.sha256}`);
} finally {
  await databases.stop();
  await rm(folder, { recursive: true, force: true });
}
