/** Loaded into each process of `npm test`, so that none of its results is lost without a failure. */
import { after } from 'node:test';

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
