/** Row "kill -9 mid-stream": the server is killed while it writes replies, and started again. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { balance } from '../support/balance.ts';
import { takeBaseline } from '../support/baseline.ts';
import { ask, readToTheEnd, stream } from '../support/caller.ts';
import { databases, until } from '../support/chat-server.ts';
import { type Cluster, copySqlite, type Member, startCluster } from '../support/cluster.ts';
import { type Entry, Ledger } from '../support/ledger.ts';
import { type Random, randomised, rounds } from '../support/random.ts';
import { query } from '../support/snapshot.ts';
import { question } from '../support/story.ts';

/** The long run has two parts, which make 26 kills on every database. */
const PARTS = ['first', 'second'].slice(0, rounds(1, 2));
/** Of each part. */
const KILLS = rounds(2, 13);
const STREAMS = 6;
const READ_MS = 60_000;

describe('kill -9 mid-stream', { concurrency: 2 }, () => {
  for (const part of PARTS) {
    for (const place of databases()) {
      // One writes alone on SQLite; elsewhere the other takes the readers over.
      const size = place.name === 'SQLite' ? 1 : 2;
      it(
        `${KILLS} times on ${place.name}, ${part} part: nothing acknowledged is lost, every reader gets the end`,
        randomised(async (random, t) => {
          const cluster = await startCluster(size, await place.create());
          t.after(async () => {
            await cluster.close();
            await place.drop();
          });
          await killAgainAndAgain(cluster, random, t);
        }),
      );
    }
  }
});

async function killAgainAndAgain(cluster: Cluster, random: Random, t: TestContext): Promise<void> {
  const ledger = new Ledger();
  const warm = ledger.add(question({ pieces: 3, pace: 1 }));
  assert.equal(await ask(cluster.at(0).url, warm), 'ended');
  const baseline = await takeBaseline(cluster);
  const readers: Promise<void>[] = [];
  for (let n = 0; n < KILLS; n += 1) {
    const member = random.pick(cluster.members);
    const long = n % 5 === 1;
    const entries = Array.from({ length: STREAMS }, () => open(member, ledger, random, long));
    // In some rounds a reader has had text for longer than the time between two checkpoints.
    if (long) await until('some text', async () => entries.some(({ shown }) => shown !== ''));
    await pause(long ? random.int(1600, 2100) : random.int(10, 400));
    await member.kill(ledger);
    if ('file' in cluster.place) await checkCopy(cluster);
    await member.start();
    for (const entry of entries) {
      if (!entry.acknowledged) continue;
      // A server that is killed again immediately has no time to reap its predecessor.
      readers.push(readToTheEnd(() => random.pick(cluster.members).url, entry, READ_MS));
    }
  }
  await Promise.all(readers);
  const { messages } = await balance(ledger, cluster.place);
  if ('file' in cluster.place)
    assert.deepEqual(await query(cluster.place, 'PRAGMA integrity_check'), [INTACT]);
  const cut = messages.filter(({ status }) => status === 'incomplete').length;
  const bound = ledger.entries.filter((entry) => (ledger.durable(entry) ?? 0) > 0).length;
  t.diagnostic(`${ledger.entries.length} asked, ${cut} cut, ${bound} of which something had to be there`);
  assert(cut > 0 && bound > 0, `only ${cut} replies were cut, ${bound} of them late enough`);
  await baseline.back();
}

const INTACT = { integrity_check: 'ok' };

/** Opens a stream at the server and leaves it open; what becomes of it is in the ledger. */
function open(member: Member, ledger: Ledger, random: Random, long: boolean): Entry {
  const { index, url } = member;
  const plot = { pieces: random.int(20, 150), pace: random.int(5, 40) };
  if (long) Object.assign(plot, { pieces: 150, pace: 25 });
  const entry = ledger.add(question(plot), {
    server: index,
    format: random.chance(0.8) ? 'markdown' : 'text',
    ...(random.chance(0.2) ? { conversationId: crypto.randomUUID() } : {}),
  });
  void (random.chance(0.85) ? stream(url, entry) : ask(url, entry));
  return entry;
}

/** Looks at what the kill has left, before the next start mends anything. */
async function checkCopy({ place }: Cluster): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'chat-killed-'));
  try {
    const copy = await copySqlite(place, folder);
    assert.deepEqual(await query(copy, 'PRAGMA integrity_check'), [INTACT]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
