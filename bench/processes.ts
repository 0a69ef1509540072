import { type ChildProcess, fork } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import packageJson from '../package.json' with { type: 'json' };

export interface Sample {
  /** User and system time of the process since its start, milliseconds. */
  readonly cpuMs: number;
  readonly rss: number;
  readonly heap: number;
}

/** Measured between `watch` and `watched`. */
export interface Watched {
  readonly peakRss: number;
  readonly loopP99Ms: number;
  readonly loopMaxMs: number;
}

export interface Measured {
  readonly port: number;
  watch(): Promise<void>;
  watched(): Promise<Watched>;
  sample(afterGc?: boolean): Promise<Sample>;
  stop(): Promise<void>;
}

const PROBE = new URL('./probe.ts', import.meta.url).href;
/** The Node flags of `npm start`. */
const START_FLAGS = packageJson.scripts.start.split(' ').filter((word) => word.startsWith('--'));

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));

function start(
  script: string,
  args: string[],
  env: Record<string, string>,
  stdout: 'ignore' | 'pipe',
  flags: readonly string[] = [],
): ChildProcess {
  return fork(script, args, {
    execArgv: [...flags, '--import', PROBE],
    env: { ...process.env, ...env },
    stdio: ['ignore', stdout, 'inherit', 'ipc'],
  });
}

function message<T>(
  child: ChildProcess,
  pick: (message: Record<string, unknown>) => T | undefined,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const onMessage = (raw: unknown) => {
      const picked =
        typeof raw === 'object' && raw !== null ? pick(raw as Record<string, unknown>) : undefined;
      if (picked === undefined) return;
      child.off('message', onMessage).off('exit', onExit);
      resolve(picked);
    };
    const onExit = (code: number | null) =>
      reject(new Error(`a measured process exited early, code ${code}`));
    child.on('message', onMessage).once('exit', onExit);
  });
}

function measured(child: ChildProcess, port: number, after: () => Promise<void> = async () => {}): Measured {
  return {
    port,
    async sample(afterGc = false) {
      const response = message(child, ({ probe }) => probe as Sample | undefined);
      child.send(afterGc ? 'probe after gc' : 'probe');
      return response;
    },
    async watch() {
      const response = message(child, ({ watching }) => watching as true | undefined);
      child.send('watch');
      await response;
    },
    async watched() {
      const response = message(child, ({ watched }) => watched as Watched | undefined);
      child.send('watched');
      return response;
    },
    async stop() {
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      await gone;
      await after();
    },
  };
}

/** Starts one of the small programs in this folder. */
export function startPeer(name: string, ...args: string[]): Promise<Measured> {
  return startProgram(here(name), args);
}

/** Starts a program that sends `{ port }` when it listens. */
export async function startProgram(
  script: string,
  args: string[],
  env: Record<string, string> = {},
  flags: readonly string[] = [],
): Promise<Measured> {
  const child = start(script, args, env, 'ignore', flags);
  return measured(child, await message(child, ({ port }) => port as number | undefined));
}

/** Starts the server as `npm start` does, in front of the stand-in model server. */
export async function startSubject(
  upstreamPort: number,
  databaseUrl: string | undefined,
  env: Record<string, string> = {},
  checkout = here('..'),
): Promise<Measured & { readonly databaseUrl: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-api-bench-'));
  const child = start(
    join(resolve(checkout), 'src', 'main.ts'),
    [],
    {
      PORT: '0',
      HOST: '127.0.0.1',
      DATA_DIR: folder,
      LOG_FORMAT: 'json',
      OPENAI_BASE_URL: `http://127.0.0.1:${upstreamPort}/v1`,
      OPENAI_API_KEY: 'bench',
      MAX_GENERATIONS: '5000',
      OPENAI_IDLE_TIMEOUT_MS: '300000',
      SHUTDOWN_GRACE_MS: '0',
      ...(databaseUrl === undefined ? {} : { DATABASE_URL: databaseUrl, DB_AUTO_MIGRATE: 'on' }),
      ...env,
    },
    'pipe',
    START_FLAGS,
  );
  // The access log is part of the cost, so it is written as in production. The port is read from it.
  const port = await new Promise<number>((resolve, reject) => {
    child.stdout?.setEncoding('utf8').on('data', (lines: string) => {
      const found = /"url":"http:\/\/127\.0\.0\.1:(\d+)"/.exec(lines);
      if (found) resolve(Number(found[1]));
    });
    child.once('exit', (code) => reject(new Error(`the server exited early, code ${code}`)));
  });
  const running = measured(child, port, () => rm(folder, { recursive: true, force: true }));
  return { ...running, databaseUrl: databaseUrl ?? `sqlite:${join(folder, 'chat.sqlite')}` };
}
