/** Runs the test files of the command line in one process: unit tests need none of their own. */
import { pathToFileURL } from 'node:url';

for (const file of process.argv.slice(2)) await import(pathToFileURL(file).href);
