/**
 * Runs commands of scripts/ one after another in this process, which has most of their code loaded. A new process for
 * each would take half a second of CPU time. script.ts starts it as a child process, so that a command can have its own
 * working directory, environment, streams and exit code.
 */
import { Console } from 'node:console';
import { Writable } from 'node:stream';
import { inspect } from 'node:util';

export interface Order {
  readonly script: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly env: Record<string, string>;
}

export interface Done {
  readonly code: number;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
}

class Exit extends Error {}

function replaceStream(name: 'stdout' | 'stderr'): Buffer[] {
  const pieces: Buffer[] = [];
  const stream = new Writable({
    write(piece, _encoding, done) {
      pieces.push(Buffer.from(piece));
      done();
    },
  });
  Object.defineProperty(process, name, { value: stream, configurable: true });
  return pieces;
}

async function run({ script, args, cwd, env }: Order, number: number): Promise<Done> {
  const file = new URL(`../../scripts/${script}.ts`, import.meta.url);
  process.chdir(cwd);
  process.env = env;
  process.argv = [process.execPath, file.pathname, ...args];
  process.exitCode = undefined;
  const [stdout, stderr] = [replaceStream('stdout'), replaceStream('stderr')];
  Object.assign(console, new Console(process.stdout, process.stderr));
  const soFar = (code: unknown): Done => {
    return { code: Number(code ?? 0), stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) };
  };
  let exited: Done | undefined;
  process.exit = (code) => {
    // Output after process.exit(), while the error passes through the command, does not count.
    exited ??= soFar(code ?? process.exitCode);
    throw new Exit();
  };
  // With another query the module is imported, and runs, again.
  file.search = String(number);
  await import(file.href).catch((error: unknown) => {
    process.stderr.write(`${inspect(error)}\n`);
    process.exitCode = 1;
  });
  for (const signal of ['SIGINT', 'SIGTERM']) process.removeAllListeners(signal);
  return exited ?? soFar(process.exitCode);
}

let count = 0;
process.on('message', async (order: Order) => {
  const done = await run(order, ++count);
  process.exitCode = undefined;
  process.send?.(done);
});
