/** Enables the compile cache before anything else is loaded, then runs the server. */
import './compile-cache.ts';
import { readArguments } from './util/command-line.ts';

const NODE_MAJOR = 24;

const [major = ''] = process.versions.node.split('.');
if (Number(major) < NODE_MAJOR) {
  process.stderr.write(
    `The server needs Node ${NODE_MAJOR}, not ${process.version}: start it with npm start\n`,
  );
  process.exit(1);
}

readArguments(
  `usage: npm start
Starts the server. It takes no arguments: settings come from the environment and from .env, see .env.example.`,
  {},
);

await import('./run.ts');
