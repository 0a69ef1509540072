/**
 * `npm test [-- FILE|FOLDER …]`: runs the tests, prints the ten slowest files and the totals, and exits with 1 when
 * anything failed. TEST_CONCURRENCY says how many processes run tests at the same time.
 */
import { existsSync, globSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { type RunOptions, run } from 'node:test';
import { spec, type TestEvent } from 'node:test/reporters';
import { pathToFileURL } from 'node:url';
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { globalSetup, globalTeardown } from '../test/support/global-setup.ts';
import { memoryFolder, removeMemoryFolder } from '../test/support/memory-folder.ts';

const PROJECT = resolve(import.meta.dirname, '..');
const BUNDLE = join(PROJECT, 'test', 'support', 'bundle.ts');
const TEST_PROCESS = pathToFileURL(join(PROJECT, 'test', 'support', 'test-process.ts')).href;
const TEST_TIMEOUT_MS = 120_000;
const SLOWEST = 10;

/**
 * How many files share a process, by the folder in `test/`: a process takes a second of CPU time to load the code. The
 * slowest folders come first, so that no core is idle at the end, and files whose tests mostly wait are in several
 * processes, so that they wait at the same time.
 */
const KINDS: readonly (readonly [path: string, filesPerProcess: number])[] = [
  ['browser', Number.POSITIVE_INFINITY],
  ['faults', 3],
  ['deploy', Number.POSITIVE_INFINITY],
  ['security', 3],
  ['pm2', 1],
  ['llm', Number.POSITIVE_INFINITY],
  ['http', 10],
  ['clients', Number.POSITIVE_INFINITY],
  ['openai', 3],
  ['db', 8],
  ['scripts', 3],
  ['docs', Number.POSITIVE_INFINITY],
  ['supply', 1],
  ['unit', 20],
  ['', Number.POSITIVE_INFINITY],
];

const COUNTS = ['tests', 'suites', 'pass', 'fail', 'cancelled', 'skipped', 'todo'] as const;

interface Totals {
  readonly counts: Record<(typeof COUNTS)[number], number>;
  /** Milliseconds by file. */
  readonly durations: Map<string, number>;
  readonly failures: string[];
}

function testFiles(places: readonly string[]): string[] {
  const patterns = (places.length > 0 ? places : ['test']).map((place) =>
    statSync(resolve(PROJECT, place)).isDirectory() ? `${place}/**/*.test.ts` : place,
  );
  return globSync(patterns, { cwd: PROJECT })
    .map((file) => file.replaceAll('\\', '/'))
    .sort();
}

/** Which files run in which process, in the order in which they start. */
function processes(files: readonly string[]): string[][] {
  const kindOf = (file: string) => KINDS.findIndex(([path]) => file.startsWith(`test/${path}`));
  return KINDS.flatMap(([, filesPerProcess], index) => {
    const own = files.filter((file) => kindOf(file) === index);
    const count = own.length > 0 ? Math.max(1, Math.ceil(own.length / filesPerProcess)) : 0;
    return Array.from({ length: count }, (_, nth) => own.filter((_, at) => at % count === nth));
  });
}

/** Runs files in one process; its output is printed when it has ended. */
async function runProcess(totals: Totals, files: readonly string[]): Promise<void> {
  const paths = files.map((file) => join(PROJECT, file));
  const shared = paths.length > 1;
  const options: RunOptions = shared ? { files: [BUNDLE], argv: paths } : { files: paths };
  const stream = run({
    ...options,
    timeout: TEST_TIMEOUT_MS,
    concurrency: 1,
    // A failed test that left a handle open must not keep the process running.
    execArgv: ['--test-force-exit', '--import', TEST_PROCESS],
  });
  const add = (file: string, ms: number) =>
    totals.durations.set(file, (totals.durations.get(file) ?? 0) + ms);
  stream.on('test:summary', ({ file, counts, duration_ms }) => {
    if (!shared && file !== undefined) add(file, duration_ms);
    if (file !== undefined) return;
    const { tests, suites, passed: pass, cancelled, skipped, todo } = counts;
    const fail = tests - pass - cancelled - skipped - todo;
    const all = { tests, suites, pass, fail, cancelled, skipped, todo };
    for (const name of COUNTS) totals.counts[name] += all[name];
  });
  // Suites inside a suite that runs its tests concurrently can complete without having been enqueued.
  let unreported = 0;
  stream.on('test:enqueue', () => {
    unreported += 1;
  });
  stream.on('test:complete', ({ file, details }) => {
    unreported -= 1;
    // Without suites, because some are defined in test/support, and without the process, which has the bundle's name.
    if (shared && file !== undefined && file !== BUNDLE && details.type !== 'suite')
      add(file, details.duration_ms);
  });
  stream.on('test:fail', ({ file, name, details }) => {
    if (details.type === 'suite') return;
    const { exitCode, signal } = details.error as { exitCode?: number | null; signal?: string | null };
    // A process that exited early does not report its tests.
    const end = signal ?? (exitCode == null ? undefined : `exit code ${exitCode}`);
    totals.failures.push(
      `${relative(PROJECT, file ?? '')}: ${name}${end === undefined ? '' : ` (${end}, of ${files.join(' ')})`}`,
    );
  });
  let said = '';
  for await (const text of Readable.from(withoutTotals(stream)).pipe(new spec())) said += text;
  process.stdout.write(said);
  if (unreported !== 0) totals.failures.push(`${unreported} results are missing, of ${files.join(' ')}`);
}

/** Removes the totals of a process; {@link report} prints those of the whole run. */
async function* withoutTotals(events: AsyncIterable<TestEvent>): AsyncGenerator<TestEvent> {
  for await (const event of events) {
    if (event.type !== 'test:diagnostic' || event.data.file !== undefined) yield event;
  }
}

async function runAll(totals: Totals, list: readonly string[][], concurrency: number): Promise<void> {
  const queue = [...list];
  const work = async () => {
    for (let files = queue.shift(); files; files = queue.shift()) await runProcess(totals, files);
  };
  await Promise.all(Array.from({ length: concurrency }, work));
}

function report({ counts, durations, failures }: Totals, ms: number): void {
  const slowest = [...durations].sort((a, b) => b[1] - a[1]).slice(0, SLOWEST);
  const lines = [
    `the ${slowest.length} slowest of ${durations.size} files:`,
    ...slowest.map(([file, took]) => `${(took / 1000).toFixed(1).padStart(7)} s  ${relative(PROJECT, file)}`),
    ...failures.map((name) => `✖ ${name}`),
    ...COUNTS.map((name) => `ℹ ${name} ${counts[name]}`),
    `ℹ duration_ms ${ms.toFixed(0)}`,
  ];
  process.stdout.write(`\n${lines.join('\n')}\n`);
}

const USAGE = `usage: npm test -- [FILE|FOLDER ...]
Runs the tests (default: all). TEST_CONCURRENCY is the number of files at the same time.`;
const { positionals: places } = readArguments(USAGE, { allowPositionals: true });
const missing = places.find((place) => !existsSync(resolve(PROJECT, place)));
if (missing !== undefined) failUsage(`There is no ${missing}`, USAGE);

// The cache of compiled code, for the test files and every process that they start.
process.env.NODE_COMPILE_CACHE ??= join(PROJECT, 'node_modules', '.cache', 'compile-cache');

const memory = process.env.TMPDIR === undefined ? memoryFolder() : undefined;
if (memory !== undefined) process.env.TMPDIR = memory;

const began = performance.now();
const totals: Totals = {
  counts: { tests: 0, suites: 0, pass: 0, fail: 0, cancelled: 0, skipped: 0, todo: 0 },
  durations: new Map(),
  failures: [],
};
const files = testFiles(places);
const concurrency = Number(process.env.TEST_CONCURRENCY ?? availableParallelism() + 3);

await globalSetup();
try {
  await runAll(totals, processes(files), concurrency);
} finally {
  await globalTeardown().catch(() => {
    process.exitCode = 1;
  });
  // The folder contains the logs, which are kept when a secret was found in them.
  if (memory !== undefined && process.exitCode !== 1) removeMemoryFolder(memory);
}
report(totals, performance.now() - began);
const { tests, fail, cancelled } = totals.counts;
if (tests === 0 || fail + cancelled + totals.failures.length > 0) process.exitCode = 1;
