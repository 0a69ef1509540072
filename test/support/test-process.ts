/** Loaded into each process of `npm test`. A process that exits before its tests have ended then fails. */
import asyncHooks from 'node:async_hooks';

// The test runner tracks every promise to attribute an uncaught error to its test. That takes a third of the CPU time,
// and an uncaught error fails the process anyway.
const { createHook } = asyncHooks;
asyncHooks.createHook = (callbacks) => createHook({ ...callbacks, trackPromises: false });
const { after, afterEach } = await import('node:test');
asyncHooks.createHook = createHook;

afterEach(async (test) => {
  if (!('passed' in test) || test.passed) return;
  const { recentWarnings } = await import('./planted.ts');
  for (const line of recentWarnings.splice(0)) process.stdout.write(`${line}\n`);
});

// Standard output must block, because process.exit() discards output that is not written yet.
const { _handle: handle } = process.stdout as unknown as { _handle?: { setBlocking?(on: boolean): void } };
handle?.setBlocking?.(true);

let hasEnded = false;
after(() => {
  hasEnded = true;
});
process.on('exit', () => {
  if (!hasEnded) process.exitCode = 1;
});
