/** Rows "Client gone: during body", "Gone: before delta, mid, before save" and "Slow reader". */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { balance } from '../support/balance.ts';
import { takeBaseline } from '../support/baseline.ts';
import { ask, readToTheEnd, stream } from '../support/caller.ts';
import { databases, until } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { delta, done, finish, role, script, usage } from '../support/fake-upstream.ts';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { type Entry, Ledger } from '../support/ledger.ts';
import { type Random, randomised, rounds } from '../support/random.ts';
import { takeSnapshot } from '../support/snapshot.ts';
import { question } from '../support/story.ts';

const LANES = 12;
const CUTS_PER_LANE = rounds(4, 10);

for (const place of databases()) {
  describe(`a caller that disconnects, on ${place.name},`, () => {
    let cluster: Cluster;
    before(async () => {
      cluster = await startCluster(1, await place.create());
    });
    after(async () => {
      await cluster.close();
      await place.drop();
    });

    it(
      'during the body leaves nothing stored, at any byte',
      randomised(async (random) => {
        const { port } = new URL(cluster.at(0).url);
        const asked: string[] = [];
        const one = async () => {
          const asking = question({ pieces: 2, pace: 0 });
          asked.push(asking);
          const body = JSON.stringify({ message: asking });
          const head = `POST /api/chat${random.chance(0.5) ? '-stream' : ''} HTTP/1.1\r\nHost: x\r\n`;
          const type = 'Content-Type: application/json\r\n';
          const whole = Buffer.from(
            `${head}${type}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
          );
          await sendPart(Number(port), whole.subarray(0, random.int(1, whole.length - 1)), random);
        };
        await Promise.all(Array.from({ length: 60 }, one));
        // Whoever comes later is served, and by then the server has seen the cuts.
        const ledger = new Ledger();
        await ask(cluster.at(0).url, ledger.add(question({ pieces: 2, pace: 0 })));
        await balance(ledger, cluster.place, { absent: asked });
        assert.equal(cluster.upstream.requests.length, 1);
      }),
    );

    it(
      `has its reply completed and saved once, after ${LANES * CUTS_PER_LANE} random cuts`,
      randomised(async (random) => {
        const ledger = new Ledger();
        ledger.add(String(cluster.upstream.requests[0]?.body.messages.at(-1)?.content));
        const warm = ledger.add(question({ pieces: 5, pace: 5 }));
        assert.equal(await stream(cluster.at(0).url, warm), 'ended');
        const baseline = await takeBaseline(cluster);
        const port = Number(new URL(cluster.at(0).url).port);
        let cut = 0;
        const lanes = Array.from({ length: LANES }, async () => {
          const own = random.fork();
          const proxy = await startFaultProxy(port);
          for (let n = 0; n < CUTS_PER_LANE; n += 1) {
            if (await cutOne(cluster, ledger, proxy, own)) cut += 1;
          }
          await proxy.close();
        });
        await Promise.all(lanes);
        await balance(ledger, cluster.place);
        for (const entry of ledger.entries) assert(entry.acknowledged || entry.end === undefined);
        assert(cut >= CUTS_PER_LANE, `only ${cut} were cut in the middle`);
        await baseline.back();
      }),
    );
  });
}

/** Sends a part of a request and goes, by a FIN or a reset. */
async function sendPart(port: number, part: Buffer, random: Random): Promise<void> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  await once(socket, 'connect');
  await new Promise((resolve) => socket.write(part, resolve));
  await pause(random.int(0, 30));
  if (random.chance(0.5)) socket.resetAndDestroy();
  else socket.destroy();
}

/**
 * One question through the proxy, cut somewhere in one of the ways in which readers get lost.
 * @returns whether it was cut in the middle of the reply
 */
async function cutOne(cluster: Cluster, ledger: Ledger, proxy: FaultProxy, random: Random): Promise<boolean> {
  const url = `http://127.0.0.1:${proxy.port}`;
  const plot = { pieces: random.int(1, 40), pace: random.int(0, 15) };
  const entry = ledger.add(question(plot), { format: random.chance(0.8) ? 'markdown' : 'text' });
  const length = plot.pieces * plot.pace + 10;
  const way = random.int(0, 5);
  if (way === 0) await stream(url, entry, { after: random.int(0, plot.pieces) });
  else if (way === 1) await stream(url, entry, { signal: AbortSignal.timeout(random.int(1, length)) });
  else if (way === 2) await ask(url, entry, { signal: AbortSignal.timeout(random.int(1, length)) });
  else if (way === 3) {
    proxy.cutAfter(random.int(0, 200 * plot.pieces), 'toClient');
    await stream(url, entry);
    proxy.watch(undefined);
  } else if (way === 4) {
    proxy.halve(true);
    const timer = setTimeout(() => proxy.cut(), random.int(1, length));
    await stream(url, entry);
    clearTimeout(timer);
    proxy.halve(false);
  } else {
    // Hears nothing for a while, and is then gone: the server learns of it by a write that fails.
    const reading = stream(url, entry);
    await pause(random.int(0, length));
    proxy.stall('toClient');
    await pause(random.int(0, 30));
    proxy.cut();
    proxy.resume();
    await reading;
  }
  const isCut = entry.acknowledged && !entry.end;
  if (isCut && random.chance(0.5)) await readToTheEnd(() => cluster.at(0).url, entry);
  return isCut;
}

describe('slow readers', () => {
  /** A reply of 8 MB: the buffers of a connection that is not read hold 6 MB of it. */
  const PIECES = 400_000;
  const READERS = 2;
  let cluster: Cluster;
  let proxy: FaultProxy;
  before(async () => {
    // With a small heap V8 collects garbage soon, and what is measured is in use.
    cluster = await startCluster(1, {
      REPLY_MAX_BYTES: '15mb',
      NODE_OPTIONS: '--max-old-space-size=128 --max-semi-space-size=4',
    });
    proxy = await startFaultProxy(Number(new URL(cluster.at(0).url).port));
  });
  after(async () => {
    await proxy.close();
    await cluster.close();
  });

  it('cost no memory, delay no other reader, and get the whole reply when they read on or resume', async () => {
    const ledger = new Ledger();
    const first = ledger.add(question({ pieces: PIECES, pace: 0 }));
    const chunks = first.expected.match(/.{1,40000}/gsu) ?? [];
    cluster.upstream.respond([script(role(), ...chunks.map(delta), finish(), usage(), done())]);
    await stream(cluster.at(0).url, first, { after: 1 });
    const url = `http://127.0.0.1:${proxy.port}`;
    await until('the whole reply', async () => {
      const { messages } = await takeSnapshot(cluster.place);
      return messages.some(({ content, status }) => status === 'complete' && content === first.expected);
    });
    const before = await memory(cluster);
    proxy.stall('toClient');
    const readers = Array.from({ length: READERS }, () => slowly(url, first));
    await until('the readers', () => proxy.connections() === READERS);
    await ask(cluster.at(0).url, ledger.add(question({ pieces: 1, pace: 0 })));
    // The text itself, as it came from the store, but no second copy made into events that wait for a slow reader.
    const bytes = Buffer.byteLength(first.expected);
    const most = READERS * (2 * bytes + 1024 * 1024);
    await until(`${READERS} readers of ${bytes} bytes to cost less than ${most}`, async () => {
      await pause(250);
      return (await memory(cluster)) - before < most;
    });
    proxy.resume();
    for (const text of await Promise.all(readers)) assert.equal(text, first.expected);
    await balance(ledger, cluster.place);
  });
});

/** The whole reply by a resume from its beginning, at the pace of the connection. */
async function slowly(url: string, { streamId }: Entry): Promise<string> {
  const response = await fetch(`${url}/api/chat-stream/${streamId}`);
  assert.equal(response.status, 200);
  const events = (await response.text())
    .split('\n\n')
    .flatMap((block) => /^data: (.*)$/m.exec(block)?.[1] ?? []);
  return events.map((data) => String(JSON.parse(data).content)).join('');
}

async function memory(cluster: Cluster): Promise<number> {
  const status = await readFile(`/proc/${cluster.at(0).pid}/status`, 'utf8').catch(() => 'VmRSS: 0 kB');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
}
