import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { Agent, get, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { until } from '../support/chat-server.ts';
import { Exposition } from '../support/exposition.ts';
import { recordLog } from '../support/planted.ts';
import { freePort } from '../support/ports.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const PM2 = join(PROJECT, 'node_modules', 'pm2', 'bin', 'pm2');
const run = promisify(execFile);

interface ListedProcess {
  readonly name: string;
  readonly pid: number;
  readonly pm2_env: { readonly status: string; readonly exec_mode: string; readonly pm_out_log_path: string };
}

/**
 * Calls until it is stopped; each must return 200. A call is repeated when the server closed its idle connection while
 * the call was on its way, which HTTP/1.1 leaves to the client. The turns that are counted later show that no such call
 * was processed.
 */
function startLoad(port: number) {
  const agent = new Agent({ keepAlive: true, maxSockets: 20 });
  const results: (number | string)[] = [];
  const open = new Set<Promise<void>>();
  let repeated = 0;
  const call = (): Promise<void> =>
    new Promise((resolve) => {
      const headers = { 'content-type': 'application/json' };
      const outgoing = request(
        { host: '127.0.0.1', port, path: '/api/chat', method: 'POST', agent, headers },
        (reply) => {
          reply.resume();
          reply.on('close', () => {
            results.push(reply.complete ? (reply.statusCode ?? 0) : 'cut');
            resolve();
          });
        },
      );
      outgoing.on('error', (error: NodeJS.ErrnoException) => {
        if (error.code === 'ECONNRESET' && outgoing.reusedSocket) {
          repeated += 1;
          return resolve(call());
        }
        results.push(error.code ?? error.message);
        resolve();
      });
      outgoing.end('{"message":"hello"}');
    });
  const timer = setInterval(() => {
    const one = call().finally(() => open.delete(one));
    open.add(one);
  }, 10);
  return {
    async stop() {
      clearInterval(timer);
      await Promise.all(open);
      agent.destroy();
      return { results, repeated };
    },
  };
}

/** Calls over one connection; returns the header `Connection` of the response. */
async function callOver(agent: Agent, port: number): Promise<string | undefined> {
  const [response] = await once(get({ host: '127.0.0.1', port, path: '/health', agent }), 'response');
  response.resume();
  await once(response, 'end');
  return response.headers.connection;
}

/** The events of one stream, read to its end. */
async function readStream(port: number): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}/api/chat-stream`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"message":"tell me something","cache":false}',
  });
  return response.text();
}

describe('under PM2', () => {
  let home: string;
  let port: number;
  let logsBefore: Set<string>;
  let turns = 0;

  const pm2 = async (...args: string[]) => {
    // Not the environment of the test runner: what it sets for its own children is not for the server's.
    const {
      NODE_TEST_CONTEXT: _context,
      NODE_OPTIONS: _options,
      DATABASE_URL: _url,
      ...inherited
    } = process.env;
    const env = {
      ...inherited,
      PM2_HOME: home,
      PORT: String(port),
      DATA_DIR: join(home, 'data'),
      CI: 'true',
    };
    return (await run(process.execPath, [PM2, ...args], { cwd: PROJECT, env })).stdout;
  };
  let worker: ListedProcess | undefined;
  const list = async (): Promise<ListedProcess[]> => JSON.parse(await pm2('jlist'));
  const log = async (of: ListedProcess | undefined) => readFile(of?.pm2_env.pm_out_log_path ?? '', 'utf8');
  const logFiles = async () => new Set(await readdir(join(PROJECT, 'logs')).catch(() => []));

  before(async () => {
    home = await mkdtemp(join(tmpdir(), 'chat-api-pm2-'));
    port = await freePort();
    logsBefore = await logFiles();
  });

  after(async () => {
    await pm2('kill');
    await rm(home, { recursive: true, force: true });
    for (const file of await logFiles()) {
      if (logsBefore.has(file)) continue;
      recordLog(await readFile(join(PROJECT, 'logs', file), 'utf8'));
      await rm(join(PROJECT, 'logs', file));
    }
  });

  it('starts in cluster mode and is ready when the command returns', async () => {
    await pm2('start', 'ecosystem.config.cjs');
    [worker] = await list();
    assert.equal(worker?.pm2_env.status, 'online');
    assert.equal(worker?.pm2_env.exec_mode, 'cluster_mode');
    assert.equal((await fetch(`http://127.0.0.1:${port}/health/ready`)).status, 200);
  });

  it('reloads under load without losing a request, and lets a stream finish', async (t) => {
    const old = worker;
    const { length } = await log(old);
    const load = startLoad(port);
    t.after(() => load.stop());
    const stream = readStream(port);
    const idle = new Agent({ keepAlive: true, maxSockets: 1 });
    assert.equal(await callOver(idle, port), 'keep-alive');
    const reloaded = pm2('reload', 'ecosystem.config.cjs');
    await until('the old process stops', async () => (await log(old)).includes('"msg":"stopping"', length));
    // Longer than outside of a cluster, and shorter than in one.
    await delay(2000);
    assert.equal(await callOver(idle, port), 'close');
    await reloaded;
    const events = await stream;
    await fetch(`http://127.0.0.1:${port}/health`);
    const { results, repeated } = await load.stop();
    turns += results.length + 1;
    [worker] = await list();
    assert.notEqual(worker?.pid, old?.pid);
    assert.match(events, /event: done\n/);
    assert.ok(results.length > 20, `only ${results.length} calls`);
    assert.deepEqual(new Set(results), new Set([200]));
    assert.ok(repeated <= 1, `${repeated} calls met the end of their connection`);
  });

  it('has the turns of its workers in one scrape, those of the replaced one too', async () => {
    let seen: Record<string, number> = {};
    await until(`${turns} turns of two workers`, async () => {
      const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
      seen = new Exposition(text).turns();
      const all = Object.values(seen).reduce((sum, count) => sum + count, 0);
      return all === turns && (seen.ended ?? 0) > 0;
    }).catch((error: unknown) => assert.fail(`${String(error)}, but ${JSON.stringify(seen)}`));
  });

  it('stops by itself within its grace period, and logs it', async () => {
    assert.ok(worker);
    await pm2('stop', 'chat-api');
    const text = await log(worker);
    assert.match(text, /"msg":"stopping"/);
    assert.match(text, /"msg":"stopped"/);
    assert.match(text, /"path":"\/api\/chat"/);
  });
});
