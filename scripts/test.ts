/**
 * `npm test [-- FILE|FOLDER …]`: runs the tests in passes, prints the ten slowest files and the totals, and exits
 * with 1 when anything failed. TEST_CONCURRENCY says how many files run at the same time.
 */
import { existsSync, globSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { type RunOptions, run } from 'node:test';
import { spec } from 'node:test/reporters';
import { failUsage, readArguments } from '../src/util/command-line.ts';
import { globalSetup, globalTeardown } from '../test/support/global-setup.ts';

const PROJECT = resolve(import.meta.dirname, '..');
const BUNDLE = join(PROJECT, 'test', 'support', 'bundle.ts');
const TEST_TIMEOUT_MS = 120_000;
const SLOWEST = 10;

/** These measure durations, so they run alone. */
const TIMED: ReadonlySet<string> = new Set([
  'test/db/pool.test.ts',
  'test/faults/shutdown.test.ts',
  'test/db/removal-time.test.ts',
  'test/http/export-throttle.test.ts',
  'test/http/limits-shared.test.ts',
  'test/security/slow-clients.test.ts',
  'test/unit/markdown/linearity.test.ts',
  'test/unit/markdown/promptness.test.ts',
]);

/** Slowest first, so that no core is idle at the end. */
const ORDER = ['faults', 'http/export', 'http', 'scripts', 'db', 'browser', 'docs', 'llm', ''];

const COUNTS = ['tests', 'suites', 'pass', 'fail', 'cancelled', 'skipped', 'todo'] as const;

interface Totals {
  readonly counts: Record<(typeof COUNTS)[number], number>;
  /** By file, ms. */
  readonly durations: Map<string, number>;
  readonly failures: string[];
}

function testFiles(places: readonly string[]): string[] {
  const patterns = (places.length > 0 ? places : ['test']).map((place) =>
    statSync(resolve(PROJECT, place)).isDirectory() ? `${place}/**/*.test.ts` : place,
  );
  const files = globSync(patterns, { cwd: PROJECT }).map((file) => file.replaceAll('\\', '/'));
  const rank = (file: string) => ORDER.findIndex((prefix) => file.startsWith(`test/${prefix}`));
  return files.sort().sort((a, b) => rank(a) - rank(b));
}

async function runPass(totals: Totals, options: RunOptions): Promise<void> {
  const stream = run({ timeout: TEST_TIMEOUT_MS, ...options });
  const add = (file: string, ms: number) =>
    totals.durations.set(file, (totals.durations.get(file) ?? 0) + ms);
  stream.on('test:summary', ({ file, counts, duration_ms }) => {
    if (file === undefined) {
      const { tests, suites, passed: pass, cancelled, skipped, todo } = counts;
      const fail = tests - pass - cancelled - skipped - todo;
      const all = { tests, suites, pass, fail, cancelled, skipped, todo };
      for (const name of COUNTS) totals.counts[name] += all[name];
    } else if (file !== BUNDLE) add(file, duration_ms);
  });
  stream.on('test:complete', ({ file, nesting, details }) => {
    if (options.argv && nesting === 0 && file !== undefined && file !== BUNDLE)
      add(file, details.duration_ms);
  });
  stream.on('test:fail', ({ file, name, details }) => {
    if (details.type !== 'suite') totals.failures.push(`${relative(PROJECT, file ?? '')}: ${name}`);
  });
  for await (const text of stream.compose(new spec())) process.stdout.write(text);
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

const began = performance.now();
const totals: Totals = {
  counts: { tests: 0, suites: 0, pass: 0, fail: 0, cancelled: 0, skipped: 0, todo: 0 },
  durations: new Map(),
  failures: [],
};
const files = testFiles(places);
const timed = files.filter((file) => TIMED.has(file));
const unit = files.filter((file) => file.startsWith('test/unit/') && !TIMED.has(file));
const others = files.filter((file) => !timed.includes(file) && !unit.includes(file));
const paths = (list: readonly string[]) => list.map((file) => join(PROJECT, file));
const concurrency = Number(process.env.TEST_CONCURRENCY ?? availableParallelism() + 1);

await globalSetup();
try {
  if (unit.length > 0) await runPass(totals, { files: [BUNDLE], argv: paths(unit) });
  // A file whose failed test left something open must not keep the run from ending.
  const execArgv = ['--test-force-exit'];
  if (others.length > 0) await runPass(totals, { files: paths(others), concurrency, execArgv });
  if (timed.length > 0) await runPass(totals, { files: paths(timed), concurrency: 1, execArgv });
} finally {
  await globalTeardown().catch(() => {
    process.exitCode = 1;
  });
}
report(totals, performance.now() - began);
const { tests, fail, cancelled } = totals.counts;
if (tests === 0 || fail + cancelled + totals.failures.length > 0) process.exitCode = 1;
