/**
 * The production installation and the image. No Docker daemon is needed: the instructions of the Dockerfile are
 * carried out in a fresh folder, and its command runs as another user in a tree that this user cannot write to.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import packageJson from '../../package.json' with { type: 'json' };
import { looksLikeKey } from '../../src/services/access/api-key-format.ts';
import { blocksOf, fileUrl, read } from '../docs/documents.ts';
import { until } from '../support/chat-server.ts';
import { recordLog } from '../support/planted.ts';
import { freePort } from '../support/ports.ts';

const PROJECT = fileURLToPath(fileUrl('.'));
const INSTALL = { timeout: 400_000 };
/** Megabytes on disk, without the Node that the npm package `node` brings. */
const LARGEST_MODULES = 110;
/** The user `node` of the image. */
const IMAGE_USER = 1000;
/** The host's Node and npm, without the project's. */
const HOST_PATH = (process.env.PATH ?? '')
  .split(delimiter)
  .filter((folder) => !folder.includes('node_modules'))
  .join(delimiter);

const run = promisify(execFile);
/** The node_modules of the image before they are pruned, for the other installation: `npm ci` takes 9 s of CPU. */
const modules = mkdtempSync(join(tmpdir(), 'chat-modules-'));
after(() => rmSync(modules, { recursive: true, force: true }));
const isRoot = process.getuid?.() === 0;
const user = isRoot ? { uid: IMAGE_USER, gid: IMAGE_USER } : {};

/** @returns megabytes as `du` counts them */
function megabytes(folder: string): number {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  const blocks = entries.map((entry) => lstatSync(join(entry.parentPath, entry.name)).blocks);
  return blocks.reduce((sum, count) => sum + count, 0) / 2048;
}

function environment(path: string, more: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  const { HOME, npm_config_cache, npm_config_registry } = process.env;
  // What the project's own installation has downloaded is not downloaded again.
  return {
    PATH: path,
    HOME,
    npm_config_cache,
    npm_config_registry,
    npm_config_prefer_offline: 'true',
    ...more,
  };
}

async function stop(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  const [code] = await exit;
  return code;
}

/** Whether something answers there. Asking costs a fraction of the start of a healthcheck. */
const isUp = (port = '') =>
  fetch(`http://127.0.0.1:${port}/health`).then(
    ({ ok }) => ok,
    () => false,
  );

const post = (url: string, message: string) =>
  fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ message }),
  });

type Instruction = Readonly<Record<'name' | 'text', string>>;

/** The instructions of each stage, without comments and with continued lines joined. */
function stages(dockerfile: string): Instruction[][] {
  const lines = dockerfile
    .replace(/^#.*\n/gm, '')
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .filter((line) => line.trim() !== '');
  const result: Instruction[][] = [];
  for (const line of lines) {
    const [, name = '', text = ''] = /^(\w+) (.*)$/.exec(line) ?? [];
    if (name === 'FROM') result.push([]);
    else result.at(-1)?.push({ name, text });
  }
  return result;
}

const settings = (text: string) =>
  Object.fromEntries([...text.matchAll(/(\w+)=(\S+)/g)].map(([, name = '', value = '']) => [name, value]));

describe('the image, built from the Dockerfile without Docker', () => {
  const [dependencies = [], final = []] = stages(read('Dockerfile'));
  const instruction = (wanted: string) => final.find(({ name }) => name === wanted)?.text ?? '';
  const environmentOfImage = settings(instruction('ENV'));
  const [, healthcheck = ''] = /CMD (\[.*\])/.exec(instruction('HEALTHCHECK')) ?? [];
  let folder: string;
  let app: string;
  let env: NodeJS.ProcessEnv;

  /** Docker itself refuses what .dockerignore leaves out. */
  function copy(text: string, target: string): void {
    const words = text.split(' ').filter((word) => !word.startsWith('--'));
    const place = words.pop() ?? '';
    const ignored = read('.dockerignore').split('\n');
    for (const source of words) {
      assert(ignored.includes(`!${source.split('/')[0]}`), `.dockerignore leaves out ${source}`);
      const name = place.endsWith('/')
        ? join(target, place, source.split('/').at(-1) ?? '')
        : join(target, place);
      cpSync(join(PROJECT, source), name, { recursive: true });
    }
  }

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'chat-image-'));
    app = join(folder, 'app');
    const [built = '', data = '', bin = ''] = ['build', 'data', 'bin'].map((name) => join(folder, name));
    for (const one of [built, app, data, bin]) mkdirSync(one);
    // The Node of the base image, where every user can run it.
    cpSync(process.execPath, join(bin, 'node'));
    const base = [bin, HOST_PATH].join(delimiter);
    for (const { name, text } of dependencies) {
      if (name === 'COPY') copy(text, built);
      if (name !== 'RUN') continue;
      assert.match(text, /^npm ci --omit=dev --ignore-scripts && /);
      const line = text.replace('&&', `&& cp -RP node_modules ${modules} &&`);
      await run('sh', ['-c', line], { cwd: built, env: environment(base, {}), maxBuffer: 1e8 });
    }
    for (const { name, text } of final) {
      if (name === 'COPY' && text.startsWith('--from='))
        renameSync(join(built, 'node_modules'), join(app, 'node_modules'));
      else if (name === 'COPY') copy(text, app);
    }
    rmSync(built, { recursive: true });
    await run('chmod', ['-R', 'a+rX,a-w', app]);
    await run('chmod', ['a+rx', folder]);
    if (isRoot) chownSync(data, IMAGE_USER, IMAGE_USER);
    env = environment(base, {
      ...environmentOfImage,
      DATA_DIR: data,
      PORT: String(await freePort()),
      HOME: data,
    });
  }, INSTALL);
  after(() =>
    run('chmod', ['-R', 'u+w', folder]).then(() => rmSync(folder, { recursive: true, force: true })),
  );

  function start(more: Record<string, string> = {}) {
    const [program = '', ...args] = JSON.parse(instruction('CMD'));
    const child = spawn(program, args, { cwd: app, env: { ...env, ...more }, ...user });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        output += chunk;
        recordLog(String(chunk));
      });
    }
    return { child, output: () => output };
  }

  const runInImage = (program: string, ...args: readonly string[]) =>
    run(program, args, { cwd: app, env, ...user });
  const health = async () => {
    const [program, ...args] = JSON.parse(healthcheck);
    return runInImage(program, ...args).then(
      () => 0,
      ({ code }: { code: number }) => code,
    );
  };

  it('has neither the Node of the npm package nor anything for development', () => {
    assert(!existsSync(join(app, 'node_modules', '.bin', 'node')));
    for (const name of ['typescript', 'pm2', '@biomejs'])
      assert(!existsSync(join(app, 'node_modules', name)), name);
    const size = megabytes(join(app, 'node_modules'));
    assert(size < LARGEST_MODULES, `${size} MB`);
  });

  it('does not start without a key, and says how to create one', async () => {
    const { child, output } = start();
    const [code] = await once(child, 'close');
    assert.equal(code, 1);
    assert.match(output(), /npm run keys -- create/);
    const create = ['scripts/keys.ts', 'create', '--owner', 'ops', '--scopes', 'admin'];
    const { stdout } = await runInImage('node', ...create);
    const [key = ''] = /ck_\S+/.exec(stdout) ?? [];
    const server = start();
    await until('the server', () => isUp(env.PORT));
    const authorized = await fetch(`http://127.0.0.1:${env.PORT}/api/conversations`, {
      headers: { 'x-api-key': key },
    });
    assert.equal(authorized.status, 200);
    assert.equal(await stop(server.child), 0);
  });

  it('serves as another user from a tree it cannot write to, is healthy, and ends on SIGTERM with 0', async () => {
    const { child, output } = start({ AUTH: 'off' });
    try {
      assert.equal(await health(), 1);
      await until('the server', () => isUp(env.PORT));
      assert.equal(await health(), 0);
      const url = `http://127.0.0.1:${env.PORT}`;
      const reply = await post(`${url}/api/chat`, 'Hello');
      assert.equal(reply.status, 200);
      assert.match(await (await post(`${url}/api/chat-stream`, 'Hello')).text(), /event: done/);
      assert.equal((await fetch(url)).status, 200);
      assert.match(await (await fetch(`${url}/api/conversations/export-all?format=csv`)).text(), /Hello/);
    } finally {
      assert.equal(await stop(child), 0, output());
    }
    assert.equal(await health(), 1);
  });
});

describe('npm ci --omit=dev', () => {
  let folder: string;
  let env: NodeJS.ProcessEnv;

  const command = (program: string, ...args: readonly string[]) =>
    run(program, args, { cwd: folder, env, maxBuffer: 1e8 });
  const sh = (text: string, more: Readonly<Record<string, string>> = {}) =>
    run('sh', ['-ec', text.replaceAll('localhost:5010', `127.0.0.1:${env.PORT}`)], {
      cwd: folder,
      env: { ...env, ...more },
    });

  /** npm and what it starts are one process group, as on a terminal. */
  async function startServer(line: string) {
    const server = spawn('sh', ['-c', line], { cwd: folder, env, stdio: 'ignore', detached: true });
    await until('the server', () => isUp(env.PORT));
    return async () => {
      assert(server.pid);
      const exit = once(server, 'exit');
      process.kill(-server.pid, 'SIGINT');
      await exit;
      await until('the end of the server', async () => !(await isUp(env.PORT)));
    };
  }

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'chat-production-'));
    const left = ['node_modules', 'data', 'logs', '.git', 'test', 'bench', '.env'];
    for (const name of readdirSync(PROJECT).filter((one) => !left.includes(one)))
      cpSync(join(PROJECT, name), join(folder, name), { recursive: true });
    env = environment(HOST_PATH, {
      PORT: String(await freePort()),
      PM2_HOME: join(folder, 'pm2'),
      NO_UPDATE_NOTIFIER: '1',
    });
    // `npm ci` without --ignore-scripts also runs the scripts of the dependencies and of the project.
    renameSync(join(modules, 'node_modules'), join(folder, 'node_modules'));
    await command('npm', 'rebuild', '--omit=dev');
  }, INSTALL);
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('takes less than 110 MB beside the Node of the npm package', (context) => {
    const modules = join(folder, 'node_modules');
    const size = megabytes(modules) - megabytes(join(modules, 'node'));
    context.diagnostic(`${size.toFixed(0)} MB`);
    assert(size < LARGEST_MODULES, `${size} MB`);
  });

  it('is set up, measured, backed up and restored as docs/operations.md says', async () => {
    const [, section = ''] = read('docs/operations.md').split('## First installation');
    const blocks = blocksOf(section.split('\n## ')[0] ?? '').map(({ text }) => text);
    const [install = '', settings = '', keys = '', start = '', ask = '', backup = '', restore = ''] = blocks;
    assert.equal(blocks.length, 7);
    assert.equal(install, 'npm ci --omit=dev\n');
    await sh(settings);
    const created = (await sh(keys)).stdout.match(/ck_\S{20,}/g) ?? [];
    const [ADMIN_KEY = '', METRICS_KEY = ''] = created;
    assert.equal(created.length, 2);
    let end = await startServer(start);
    const { stdout } = await sh(ask, { ADMIN_KEY, METRICS_KEY });
    for (const part of ['"status":"ready"', '"response"', 'chat_build_info{'])
      assert(stdout.includes(part), part);
    await sh(backup);
    await end();
    await sh(restore);
    end = await startServer(start);
    const listed = await sh(`curl -fsS localhost:5010/api/conversations -H 'x-api-key: ${ADMIN_KEY}'`);
    assert.equal(JSON.parse(listed.stdout).conversations.length, 1);
    await end();
    rmSync(join(folder, '.env'));
  });

  it('creates the key of Prometheus by the command in compose.yaml, once', async () => {
    const [, line = ''] = /- (test -s .*)$/m.exec(read('compose.yaml')) ?? [];
    const make = () => command('sh', '-c', line.replaceAll('/keys', folder));
    await make();
    const key = readFileSync(join(folder, 'metrics'), 'utf8').trim();
    assert(looksLikeKey(key));
    await make();
    assert.equal(readFileSync(join(folder, 'metrics'), 'utf8').trim(), key);
  });

  it('runs the other commands', async () => {
    // Without npm, which takes as much CPU as a command, and is started by the test of docs/operations.md.
    const PATH = [join(folder, 'node_modules', '.bin'), HOST_PATH].join(delimiter);
    const { 'migrate:status': status, purge, export: write, 'export:verify': verify } = packageJson.scripts;
    const lines = [status, `${purge} --dry-run`, `${write} --format csv --out e.csv`, `${verify} e.csv`];
    await sh(lines.join('\n'), { PATH });
  });

  it('runs under PM2 as documented, on the project’s Node', async () => {
    const pm2 = (name: string) => command(process.execPath, join(PROJECT, 'node_modules/pm2/bin/pm2'), name);
    writeFileSync(join(folder, '.env'), `PORT=${env.PORT}\n`);
    try {
      await command('npx', '--yes', 'pm2@7', 'start', 'ecosystem.config.cjs');
      assert.equal((await post(`http://127.0.0.1:${env.PORT}/api/chat`, 'Hello')).status, 200);
      const { stdout } = await pm2('jlist');
      const [{ pm2_env: process24 }] = JSON.parse(stdout.slice(stdout.indexOf('[{')));
      assert.match(process24.node_version, /^24\./);
    } finally {
      await pm2('kill');
    }
  });
});
