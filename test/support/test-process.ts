/** Loaded into each process of `npm test`, so that none of its results is lost without a failure. */
import asyncHooks from 'node:async_hooks';

// The test runner tracks every promise, to attribute an uncaught error to its test. That takes a third of the CPU, and
// an uncaught error fails the process anyway.
const { createHook } = asyncHooks;
asyncHooks.createHook = (callbacks) => createHook({ ...callbacks, trackPromises: false });
const { after, afterEach } = await import('node:test');
asyncHooks.createHook = createHook;

afterEach(async (test) => {
  if (!('passed' in test) || test.passed) return;
  const { recentWarnings } = await import('./planted.ts');
  for (const line of recentWarnings.splice(0)) process.stdout.write(`${line}\n`);
});

// A process that is made to exit loses what its standard output has not taken yet.
const { _handle: handle } = process.stdout as unknown as { _handle?: { setBlocking?(on: boolean): void } };
handle?.setBlocking?.(true);

let hasEnded = false;
after(() => {
  hasEnded = true;
});
process.on('exit', () => {
  if (!hasEnded) process.exitCode = 1;
});
