/** Rows "Hang before first byte", "Hang mid-stream" and "Reset" where it is the network that breaks, not the model. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { balance } from '../support/balance.ts';
import { takeBaseline } from '../support/baseline.ts';
import { ask, stream } from '../support/caller.ts';
import { until } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { type Entry, Ledger } from '../support/ledger.ts';
import { randomised, rounds } from '../support/random.ts';
import { question } from '../support/story.ts';

/** Longer than a busy machine takes for a piece that is not delayed on purpose. */
const IDLE_MS = 2000;
const CUTS = rounds(12, 30);

describe('a connection to the model', () => {
  let cluster: Cluster;
  const ledger = new Ledger();
  before(async () => {
    cluster = await startCluster(
      1,
      {},
      {
        OPENAI_IDLE_TIMEOUT_MS: String(IDLE_MS),
        OPENAI_FIRST_TOKEN_TIMEOUT_MS: String(IDLE_MS),
        OPENAI_TIMEOUT_MS: '12000',
        OPENAI_MAX_RETRIES: '1',
        SSE_OPEN_MS: '600000',
      },
    );
    assert.equal(await ask(cluster.at(0).url, ledger.add(question({ pieces: 2, pace: 1 }))), 'ended');
  });
  after(() => cluster.close());

  const callsFor = (entry: Entry) =>
    cluster.upstream.requests.filter(({ body }) => body.messages.at(-1)?.content === entry.question).length;
  const begin = (pieces: number, pace: number): [Entry, Promise<string>] => {
    const entry = ledger.add(question({ pieces, pace }));
    entry.mayBreak = true;
    return [entry, stream(cluster.at(0).url, entry)];
  };

  it('with delayed and split chunks changes nothing', async () => {
    const proxy = cluster.upstreamProxy;
    proxy.halve(true);
    proxy.delay(5);
    const readings = Array.from({ length: 10 }, (_, n) => {
      const entry = ledger.add(question({ pieces: 20 + n, pace: n }), {
        format: n % 2 === 0 ? 'text' : 'markdown',
      });
      return stream(cluster.at(0).url, entry);
    });
    assert.deepEqual(new Set(await Promise.all(readings)), new Set(['ended']));
    proxy.halve(false);
    proxy.delay(0);
    for (const { end } of ledger.entries) assert.equal(end?.kind, 'done');
    await balance(ledger, cluster.place);
  });

  it('that stalls during the reply ends it at the timeout: an error event, the text so far is kept', async () => {
    const baseline = await takeBaseline(cluster);
    const calls = Array.from({ length: 10 }, () => begin(500, 10));
    await until('all of them', () => calls.every(([{ shown }]) => shown.length > 30));
    cluster.upstreamProxy.stall('toClient');
    const began = performance.now();
    for (const [entry, outcome] of calls) {
      assert.equal(await outcome, 'ended');
      assert.deepEqual(entry.end, { kind: 'error', code: 'upstream_timeout' });
      assert.equal(callsFor(entry), 1);
    }
    const took = performance.now() - began;
    // Not immediately, and not by the timeout of the whole call.
    assert(took > IDLE_MS / 2 && took < IDLE_MS * 5, `${took} ms`);
    cluster.upstreamProxy.resume();
    await balance(ledger, cluster.place);
    await baseline.back();
  });

  it('that stalls before the first token is 504, after the allowed retries', async () => {
    cluster.upstreamProxy.stall('toServer');
    const [entry, outcome] = begin(5, 1);
    const whole = ledger.add(question({ pieces: 5, pace: 1 }));
    assert.equal(await ask(cluster.at(0).url, whole), 'refused');
    assert.equal(await outcome, 'refused');
    assert.deepEqual([entry.refusals, whole.refusals], [[504], [504]]);
    cluster.upstreamProxy.resume();
    await balance(ledger, cluster.place);
  });

  it(
    `that is reset, ${CUTS} times, never repeats a reply after its first token was sent`,
    randomised(async (random, t) => {
      let repeated = 0;
      for (let n = 0; n < CUTS; n += 1) {
        const calls = Array.from({ length: 3 }, () => begin(random.int(1, 40), random.int(0, 10)));
        if (random.chance(0.5)) {
          cluster.upstreamProxy.cutAfter(random.int(0, 4000), 'toClient');
        } else {
          await pause(random.int(0, 150));
          cluster.upstreamProxy.cut();
        }
        const outcomes = await Promise.all(calls.map(([, outcome]) => outcome));
        cluster.upstreamProxy.watch(undefined);
        for (const [i, [entry]] of calls.entries()) {
          const made = callsFor(entry);
          if (made > 1) repeated += 1;
          assert(made <= 2, `${made} calls`);
          // Broken after its first word it is over, whole after a repeated call, or refused when that broke too.
          if (entry.end?.kind === 'error') assert.equal(made, 1, 'made again after a word was shown');
          assert.notEqual(outcomes[i], 'cut');
        }
      }
      t.diagnostic(`${CUTS * 3} calls, ${repeated} of them repeated before a word`);
      await balance(ledger, cluster.place);
    }),
  );
});
