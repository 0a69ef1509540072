/** Runs the test files of the command line in one process. */
import { createRequire } from 'node:module';

// Unlike import(), this gives the runner no moment at which the tests of the files so far have ended and no others are
// known: it would end the process then.
const require = createRequire(import.meta.url);
for (const file of process.argv.slice(2)) require(file);
