/** Metrics of several workers on one host: kill -9, graceful ends, replacements and a worker that does not answer. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { until } from '../support/chat-server.ts';
import { type ChildFolder, type ChildServer, makeFolder } from '../support/child-server.ts';
import { Exposition } from '../support/exposition.ts';
import { plantMessage } from '../support/planted.ts';
import { randomised } from '../support/random.ts';

const ROUNDS = 3;
/** In each round; bench/README.md has a run with more. */
const TURNS = Number(process.env.METRICS_TURNS ?? 30);
const LANES = 64;
const WINDOWS = process.platform === 'win32';

const ENV = {
  LOG_FORMAT: 'json',
  STREAM_LEASE_MS: '1500',
  SHUTDOWN_GRACE_MS: '2000',
  PURGE_CRON: '0 0 1 1 *',
};

interface Worker {
  readonly child: ChildServer;
  readonly url: string;
  /** Turns that it has answered. */
  turns: number;
}

async function startIn(folder: ChildFolder, env: Readonly<Record<string, string>> = {}): Promise<Worker> {
  const child = folder.start({ ...ENV, ...env });
  return { child, url: await child.listening(), turns: 0 };
}

async function kill({ child }: Worker, signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
  child.process.kill(signal);
  await child.exited();
}

async function scrape({ url }: Worker): Promise<Exposition> {
  const response = await fetch(`${url}/metrics`);
  assert.equal(response.status, 200);
  return new Exposition(await response.text());
}

async function ask(worker: Worker, n: number): Promise<void> {
  const body = { message: `question ${n % 7}`, cache: n % 3 !== 0 };
  plantMessage(body);
  const response = await fetch(`${worker.url}/api/${n % 2 === 0 ? 'chat' : 'chat-stream'}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  await response.text();
  assert.equal(response.status, 200);
  worker.turns += 1;
}

/** A worker that is busy may answer late; then its last stored values are shown. */
async function untilTurns(from: Worker, expected: Record<string, number>): Promise<void> {
  let seen: Record<string, number> = {};
  await until(`the turns ${JSON.stringify(expected)}`, async () => {
    seen = (await scrape(from)).turns();
    return isDeepStrictEqual(seen, expected);
  }).catch((error: unknown) => assert.fail(`${String(error)}, but ${JSON.stringify(seen)}`));
}

/** The first total that is less than it was. */
function decreased(
  before: ReadonlyMap<string, number>,
  now: ReadonlyMap<string, number>,
): string | undefined {
  return [...before].find(([key, value]) => (now.get(key) ?? 0) < value - 1e-9)?.[0];
}

describe('metrics of several workers', () => {
  let folder: ChildFolder;
  /** Those that run after each test. */
  const workers: Worker[] = [];
  const start = (env?: Readonly<Record<string, string>>) => startIn(folder, env);
  const port = 20_000 + (process.pid % 20_000);
  const env = (index: string) => ({ METRICS_PORT: String(port), NODE_APP_INSTANCE: index });
  before(async () => {
    folder = await makeFolder();
  });
  after(() => folder.remove());

  it(
    'are exact for living ones and never decrease, with a kill, an end and restarts',
    randomised(async (random) => {
      workers.push(await start(), await start());
      let before = new Map<string, number>();
      const check = async (from: Worker) => {
        const all = await scrape(from);
        const totals = all.totals();
        assert.equal(decreased(before, totals), undefined);
        before = totals;
        return all.turns();
      };
      for (let round = 0; round < ROUNDS; round += 1) {
        let asked = 0;
        const lane = async () => {
          while (asked < TURNS) await ask(random.pick(workers), asked++);
        };
        await Promise.all(Array.from({ length: LANES }, lane));
        await until('exact turns', async () => {
          const all = await check(random.pick(workers));
          return workers.every(({ turns }, index) => all[String(index)] === turns);
        });
        if (round === ROUNDS - 1) break;
        const victim = random.int(0, 1);
        const [dead, living] = [workers[victim], workers[1 - victim]];
        assert(dead && living);
        await kill(dead, round === 0 ? 'SIGKILL' : 'SIGTERM');
        assert.equal((await check(living))[String(victim)], undefined);
        workers[victim] = await start();
        await check(random.pick(workers));
      }
      const all = await check(random.pick(workers));
      assert.deepEqual(Object.keys(all).sort(), ['0', '1', 'ended']);
      const asked = Object.values(all).reduce((sum, turns) => sum + turns, 0);
      assert.equal(asked, ROUNDS * TURNS, 'what was scraped once is never lost');
    }),
  );

  it('include the stored ones of a worker that does not answer', { skip: WINDOWS }, async (t) => {
    const [asked, frozen] = workers;
    assert(asked && frozen);
    await ask(frozen, 1);
    const expected = { ...(await scrape(asked)).turns(), '1': frozen.turns };
    await untilTurns(asked, expected);
    frozen.child.process.kill('SIGSTOP');
    t.after(() => frozen.child.process.kill('SIGCONT'));
    await untilTurns(asked, expected);
  });

  it('begin anew when all workers have ended', async () => {
    for (const worker of workers.splice(0)) await kill(worker);
    workers[0] = await start(env('0'));
    assert.deepEqual((await scrape(workers[0])).turns(), { '0': 0 });
  });

  it('are served on METRICS_PORT and the index of each worker, through a replacement by PM2', async () => {
    const at = async (index: number) => {
      const response = await fetch(`http://127.0.0.1:${port + index}/metrics`);
      return new Exposition(await response.text()).turns();
    };
    const [first, second] = [workers[0], await start(env('1'))];
    assert(first);
    await ask(second, 1);
    await until('the ports', async () => Promise.all([at(0), at(1)]).catch(() => false));
    assert.deepEqual([await at(0), await at(1)], [{ '0': 0 }, { '1': 1 }]);
    const successor = await start(env('0'));
    await ask(successor, 1);
    await untilTurns(successor, { '0': 1, '0-old': 0, '1': 1 });
    await kill(first, 'SIGTERM');
    await until('the port of the successor', async () => (await at(0).catch(() => undefined))?.['0'] === 1);
    await untilTurns(second, { '0': 1, '1': 1, ended: 0 });
  });
});
