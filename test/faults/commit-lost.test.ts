/** Row "COMMIT lost": the connection breaks while a transaction is under way. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import type { ImportCounts } from '../../src/services/imports/imports.ts';
import { balance } from '../support/balance.ts';
import { takeBaseline } from '../support/baseline.ts';
import { ask, stream } from '../support/caller.ts';
import { databases, until } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { type Entry, Ledger } from '../support/ledger.ts';
import { type Random, randomised, rounds } from '../support/random.ts';
import { storedIn } from '../support/snapshot.ts';
import { question } from '../support/story.ts';

const CUTS = rounds(20, 50);

/** Arms the proxy for one cut; resolves to whether it has happened when asked. */
function arm(proxy: FaultProxy, random: Random): () => boolean {
  let happened = false;
  const share = random.int(0, 4);
  const way = random.int(0, 2);
  let answers = false;
  let left = random.int(1, 2000);
  proxy.watch((piece, direction) => {
    let at: number | undefined;
    if (way === 0) {
      // In the packet that says COMMIT, or behind it, so that only its answer is lost.
      if (direction === 'toServer' && piece.includes('COMMIT')) at = Math.round((piece.length * share) / 4);
    } else if (way === 1) {
      // The answer to COMMIT, or a part of it.
      if (direction === 'toServer' && piece.includes('COMMIT')) answers = true;
      else if (direction === 'toClient' && answers) at = Math.min(piece.length, share);
    } else if (direction === 'toServer') {
      if (piece.length >= left) at = left;
      left -= piece.length;
    }
    happened ||= at !== undefined;
    return at;
  });
  return () => happened;
}

for (const place of databases().slice(1)) {
  describe(`a connection to ${place.name} that breaks in a transaction`, () => {
    let cluster: Cluster;
    let proxy: FaultProxy;
    before(async () => {
      const env = await place.create();
      const direct = new URL(env.DATABASE_URL ?? '');
      proxy = await startFaultProxy(Number(direct.port));
      const url = new URL(direct);
      url.port = String(proxy.port);
      cluster = await startCluster(1, { ...env, DATABASE_URL: url.href }, {}, storedIn(env, ''));
    });
    after(async () => {
      await cluster.close();
      await proxy.close();
      await place.drop();
    });

    it(
      `at ${CUTS} random places is detected, and the turn is stored once, without an error for the caller`,
      randomised(async (random, t) => {
        const ledger = new Ledger();
        const { url } = cluster.at(0);
        assert.equal(await ask(url, ledger.add(question({ pieces: 2, pace: 0 }))), 'ended');
        const baseline = await takeBaseline(cluster);
        let cuts = 0;
        for (let n = 0; n < CUTS; n += 1) {
          const happened = arm(proxy, random);
          await until('the cut', async () => {
            const entry = await talk(url, ledger, random);
            assert.equal(entry.end?.kind, 'done', `${entry.question}: ${entry.refusals}`);
            return happened();
          });
          cuts += 1;
        }
        proxy.watch(undefined);
        t.diagnostic(`${ledger.entries.length} turns, ${cuts} cuts`);
        await balance(ledger, cluster.place);
        await baseline.back();
      }),
    );

    it('ends an import with an error, and the same file completes it', async () => {
      const lines = Array.from({ length: 20 }, (_, n) => {
        const at = new Date(Date.now() - 1000 * n).toISOString();
        const message = { id: randomUUID(), role: 'user', content: `question ${n}`, timestamp: at };
        const head = { conversation_id: randomUUID(), created_at: at, last_active: at };
        return JSON.stringify({ ...head, messages: [message] });
      });
      const post = async () => {
        const response = await fetch(`${cluster.at(0).url}/api/imports`, {
          method: 'POST',
          headers: { 'content-type': 'application/x-ndjson' },
          body: lines.join('\n'),
        });
        return {
          status: response.status,
          body: (await response.json()) as Record<string, unknown> & ImportCounts,
        };
      };
      // After the transaction, before its response. Other connections may have responses at the same time.
      proxy.watch((piece, direction) =>
        direction === 'toServer' && piece.includes('INSERT INTO messages') ? piece.length : undefined,
      );
      const cut = await post();
      proxy.watch(undefined);
      assert.deepEqual([cut.status, cut.body.code], [503, 'database_unavailable']);
      const { status, body } = await post();
      assert.deepEqual([status, body.imported + body.skipped, body.failed], [200, 20, 0]);
    });
  });
}

/** A turn in a new conversation or in one of before. */
async function talk(url: string, ledger: Ledger, random: Random): Promise<Entry> {
  const before = random.pick(ledger.entries);
  const conversationId = random.chance(0.5) ? before.conversationId : undefined;
  const entry = ledger.add(question({ pieces: random.int(1, 5), pace: random.int(0, 5) }), {
    ...(conversationId === undefined ? {} : { conversationId }),
  });
  await (random.chance(0.5) ? stream : ask)(url, entry);
  return entry;
}
