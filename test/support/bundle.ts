/** Runs the test files of the command line in one process. */
import { createRequire } from 'node:module';

// require() and not import(): between two imports the runner could find all known tests ended, and would then end the
// process before the next file is loaded.
const require = createRequire(import.meta.url);
for (const file of process.argv.slice(2)) require(file);
