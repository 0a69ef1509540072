/** Log destinations that fail under a running server. The disk needs root on Linux. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { until } from '../support/chat-server.ts';
import { freePort } from '../support/ports.ts';
import { FULL, smallDisk } from '../support/small-disk.ts';

const { O_RDONLY, O_NONBLOCK } = constants;
const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chat-log-'));
});
after(() => rm(folder, { recursive: true, force: true }));

interface Running {
  readonly process: ChildProcess;
  readonly url: string;
  /** Causes so many log lines. */
  fill(lines: number): Promise<void>;
  serves(): Promise<boolean>;
}

async function start(t: TestContext, env: NodeJS.ProcessEnv, stdout: number | 'pipe'): Promise<Running> {
  const port = await freePort();
  const { PATH, NODE_COMPILE_CACHE } = process.env;
  const child = spawn(process.execPath, [MAIN], {
    cwd: folder,
    env: { PATH, NODE_COMPILE_CACHE, PORT: String(port), DATA_DIR: join(folder, String(port)), ...env },
    stdio: ['ignore', stdout, 'ignore'],
  });
  t.after(() => child.kill('SIGKILL'));
  const url = `http://127.0.0.1:${port}`;
  const get = async (path: string) => {
    const response = await fetch(url + path, { signal: AbortSignal.timeout(5000) });
    await response.arrayBuffer();
    return response.status;
  };
  const serves = () =>
    get('/health').then(
      (status) => status === 200,
      () => false,
    );
  await until('the server', serves);
  return {
    process: child,
    url,
    serves,
    async fill(lines) {
      for (let n = 0; n < lines; n++) await get(`/nothing-${'x'.repeat(8000)}`);
    },
  };
}

async function stopsCleanly({ process: child }: Running): Promise<void> {
  child.kill('SIGTERM');
  assert.deepEqual(await once(child, 'exit'), [0, null]);
}

if (process.platform === 'linux') {
  describe('a server whose log', () => {
    for (const way of process.getuid?.() === 0 ? ['LOG_FILE', 'standard output'] : []) {
      it(`fills the disk serves, counts the lines it drops, and stops on SIGTERM: ${way}`, async (t) => {
        const disk = smallDisk(200);
        assert(disk);
        t.after(() => disk.remove());
        const file = join(disk.folder, 'chat.log');
        const ballast = join(disk.folder, 'ballast');
        writeFileSync(ballast, Buffer.alloc(180_000));
        const server = await start(
          t,
          way === 'LOG_FILE' ? { LOG_FILE: file } : {},
          way === 'LOG_FILE' ? 'pipe' : openSync(file, 'a'),
        );
        await server.fill(20);
        assert(await server.serves());
        rmSync(ballast);
        await until('the count', async () => {
          await server.fill(1);
          return /"count":\d+,"msg":"log lines dropped"/.test(readFileSync(file, 'utf8'));
        });
        assert.throws(() => writeFileSync(ballast, Buffer.alloc(200_000)), FULL);
        await server.fill(5);
        await stopsCleanly(server);
      });
    }

    const outputs: Record<string, (t: TestContext) => Promise<Running>> = {
      'a device that is always full': (t) => start(t, {}, openSync('/dev/full', 'w')),
      'a socket without a reader': (t) => start(t, {}, 'pipe'),
      'a pipe without a reader': async (t) => {
        const pipe = join(folder, 'pipe');
        spawnSync('mkfifo', [pipe]);
        openSync(pipe, O_RDONLY | O_NONBLOCK);
        return start(t, {}, openSync(pipe, 'w'));
      },
      'a socket whose reader has gone': async (t) => {
        const server = await start(t, {}, 'pipe');
        server.process.stdout?.destroy();
        return server;
      },
    };
    for (const [name, open] of Object.entries(outputs)) {
      it(`goes to ${name} serves and stops on SIGTERM`, async (t) => {
        const server = await open(t);
        await server.fill(40);
        assert(await server.serves());
        await stopsCleanly(server);
      });
    }
  });
}

if (process.platform !== 'win32') {
  describe('SIGHUP', () => {
    it('opens the log file again, and changes nothing when that fails', async (t) => {
      const file = join(folder, 'rotated', 'chat.log');
      const server = await start(t, { LOG_FILE: file }, 'pipe');
      renameSync(file, `${file}.1`);
      server.process.kill('SIGHUP');
      await until(
        'the new file',
        () => existsSync(file) && readFileSync(file, 'utf8').includes('log file reopened'),
      );
      renameSync(join(folder, 'rotated'), join(folder, 'moved'));
      closeSync(openSync(join(folder, 'rotated'), 'w'));
      server.process.kill('SIGHUP');
      const moved = join(folder, 'moved', 'chat.log');
      await until('the failure', () =>
        readFileSync(moved, 'utf8').includes('log file could not be reopened'),
      );
      assert(await server.serves());
      await stopsCleanly(server);
    });

    it('does not end a server that logs to standard output', async (t) => {
      const server = await start(t, {}, 'pipe');
      server.process.kill('SIGHUP');
      assert(await server.serves());
      await stopsCleanly(server);
    });
  });
}
