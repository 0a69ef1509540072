/**
 * Rows "User DELETE during stream" and "Purge vs active chat" with "Two purges at once", and resume and stop, where
 * the reply is made by another process than the one that is asked.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { balance } from '../support/balance.ts';
import { takeBaseline } from '../support/baseline.ts';
import { ask, deleteConversation, readToTheEnd, resume, stop, stream } from '../support/caller.ts';
import { databases, until } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { Entry, Ledger } from '../support/ledger.ts';
import { randomised } from '../support/random.ts';
import { query, takeSnapshot } from '../support/snapshot.ts';
import { question } from '../support/story.ts';

const WORKERS = 3;
const PURGING = 2;
/** The server itself asks after its stops and deletions at least once a second. */
const TOLD_MS = 5000;

async function statusOf(url: string): Promise<number> {
  const response = await fetch(url);
  await response.body?.cancel();
  return response.status;
}

/** Another reader of the same reply, who has seen nothing of it. */
function twinOf({ question: asked, format, conversationId = '', streamId = '' }: Entry): Entry {
  const twin = new Entry(asked, { format });
  twin.acknowledge(conversationId, streamId);
  return twin;
}

for (const place of databases().slice(1)) {
  describe(`${WORKERS} processes on ${place.name}`, () => {
    let cluster: Cluster;
    const ledger = new Ledger();
    before(async () => {
      cluster = await startCluster(WORKERS, await place.create());
    });
    after(async () => {
      await cluster.close();
      await place.drop();
    });

    /** A stream at the first of them that has been shown something; the promise is its end. */
    const begin = async (pieces = 1000, pace = 10): Promise<[Entry, Promise<string>]> => {
      const entry = ledger.add(question({ pieces, pace }));
      const reading = stream(cluster.at(0).url, entry);
      await until('the first words', () => entry.shown.length > 20);
      return [entry, reading];
    };

    it(
      'resume a reply of one of them at any other, for many readers, from any character',
      randomised(async (random) => {
        const entries = Array.from({ length: 12 }, (_, n) =>
          ledger.add(question({ pieces: random.int(40, 120), pace: 15 }), {
            format: n % 3 === 0 ? 'text' : 'markdown',
          }),
        );
        await Promise.all(
          entries.map((entry) => stream(cluster.at(0).url, entry, { after: random.int(1, 30) })),
        );
        const seconds = entries.map(async (entry) => {
          // Another reader of the same, from its beginning, at a third server.
          const twin = twinOf(entry);
          assert.equal(await resume(cluster.at(2).url, twin), 'ended', String(twin.refusals));
          return twin;
        });
        await Promise.all(
          entries.map((entry) => readToTheEnd(() => random.pick(cluster.members).url, entry)),
        );
        for (const [n, twin] of (await Promise.all(seconds)).entries()) {
          assert.deepEqual([twin.problems, twin.shown, twin.end], [[], entries[n]?.shown, entries[n]?.end]);
        }
        for (const entry of entries) {
          assert.deepEqual(entry.end, { kind: 'done', finishReason: 'stop', persisted: true });
          assert.equal(await resume(cluster.at(2).url, entry), 'nothing');
        }
        await balance(ledger, cluster.place);
      }),
    );

    it('stop a reply of another: its call is aborted, its text kept, its reader informed, and a second stop is no error', async () => {
      const [entry, reading] = await begin();
      const call = cluster.upstream.requests.length;
      const began = performance.now();
      assert.equal(await stop(cluster.at(1).url, entry), 200);
      assert.equal(await reading, 'ended');
      assert(performance.now() - began < TOLD_MS);
      assert.deepEqual(entry.end, { kind: 'done', finishReason: 'cancelled', persisted: true });
      assert.equal((await cluster.upstream.waitForClosed(call)).closed, true);
      await balance(ledger, cluster.place);
      for (const { url } of cluster.members) assert.equal(await stop(url, entry), 200);
      await balance(ledger, cluster.place, { withinMs: 0 });
      const late = twinOf(entry);
      await resume(cluster.at(2).url, late);
      assert.deepEqual([late.end, late.shown], [entry.end, entry.shown]);
    });

    it('send the same end of a stopped reply to its readers at all of them', async () => {
      for (let n = 0; n < 4; n += 1) {
        const [entry, reading] = await begin();
        const followers = cluster.members.slice(1).map(({ url }) => {
          const twin = twinOf(entry);
          return [twin, readToTheEnd(() => url, twin)] as const;
        });
        await until('the followers', () => followers.every(([{ shown }]) => shown !== ''));
        assert.equal(await stop(cluster.at(1).url, entry), 200);
        const late = twinOf(entry);
        await readToTheEnd(() => cluster.at(1).url, late);
        await Promise.all([reading, ...followers.map(([, read]) => read)]);
        for (const one of [...followers.map(([twin]) => twin), late]) {
          assert.deepEqual([one.problems, one.end, one.shown.length], [[], entry.end, entry.shown.length]);
        }
      }
      await balance(ledger, cluster.place);
    });

    it(
      'let a deletion at one of them win over a reply that another generates',
      randomised(async (random) => {
        for (let n = 0; n < 3; n += 1) {
          const [entry, reading] = await begin();
          const call = cluster.upstream.requests.length;
          const other = ledger.add(question({ pieces: 3, pace: 1 }), {
            conversationId: String(entry.conversationId),
          });
          assert.equal(await ask(cluster.at(2).url, other), 'ended');
          await pause(random.int(0, 600));
          const began = performance.now();
          assert.equal(await deleteConversation(cluster.at(1 + (n % 2)).url, [entry, other]), 200);
          assert.equal(await reading, 'ended');
          assert(performance.now() - began < TOLD_MS, 'the reader waited');
          assert.equal(entry.end?.kind, 'error');
          await cluster.upstream.waitForClosed(call);
          for (const { url } of cluster.members) {
            assert.equal(await statusOf(`${url}/api/conversations/${entry.conversationId}`), 404);
            assert.equal(await statusOf(`${url}/api/chat-stream/${entry.streamId}`), 404);
            assert.equal(await statusOf(`${url}/api/chat-stream/${other.streamId}`), 404);
          }
        }
        // Nothing that was still on its way brings anything back.
        await pause(1500);
        await balance(ledger, cluster.place, { withinMs: 0 });
      }),
    );

    it('close the replies of one that is frozen, and lose nothing when it resumes', async () => {
      const frozen = cluster.at(2);
      const entries = Array.from({ length: 6 }, (_, n) =>
        ledger.add(question({ pieces: 100 + n * 20, pace: 20 }), { server: 2 }),
      );
      const readings = entries.map((entry) => stream(frozen.url, entry));
      await until('the first words', () => entries.every(({ shown }) => shown.length > 100));
      for (const entry of entries) entry.mayBreak = true;
      process.kill(frozen.pid, 'SIGSTOP');
      const twins = entries.map((entry) => twinOf(entry));
      await Promise.all(twins.map((twin) => readToTheEnd(() => cluster.at(1).url, twin)));
      process.kill(frozen.pid, 'SIGCONT');
      for (const { problems, end } of twins) {
        assert.deepEqual([problems, end], [[], { kind: 'error', code: 'reply_incomplete' }]);
      }
      for (const reading of readings) assert.equal(await reading, 'ended');
      const { messages } = await balance(ledger, cluster.place);
      for (const twin of twins) {
        const row = messages.find(({ uid }) => uid === twin.streamId);
        assert(row?.content.startsWith(twin.shown), 'what a reader was shown has changed');
      }
    });

    it('free everything when all streams have ended', async () => {
      const baseline = await takeBaseline(cluster);
      const entries = cluster.members.flatMap(({ url, index }) =>
        Array.from({ length: 10 }, () => {
          const entry = ledger.add(question({ pieces: 20, pace: 10 }), { server: index });
          return stream(url, entry, { after: 3 });
        }),
      );
      await Promise.all(entries);
      await baseline.back();
      await balance(ledger, cluster.place);
    });
  });

  describe(`${PURGING} processes on ${place.name} that purge every second`, () => {
    it('delete each expired conversation once, and none with a running reply', async (t) => {
      // The database is there throughout, however slow the machine.
      const env = {
        PURGE_CRON: '* * * * * *',
        CONVERSATION_TTL_HOURS: '0.0006',
        DB_ACQUIRE_TIMEOUT_MS: '10000',
      };
      const cluster = await startCluster(PURGING, await place.create(), env);
      t.after(async () => {
        await cluster.close();
        await place.drop();
      });
      const ledger = new Ledger();
      const short = Array.from({ length: 40 }, (_, n) => {
        const entry = ledger.add(question({ pieces: 2, pace: 1 }));
        return ask(cluster.at(n % PURGING).url, entry);
      });
      assert.deepEqual(new Set(await Promise.all(short)), new Set(['ended']));
      const done = [...ledger.entries];
      for (const entry of done) entry.deletion = 'asked';
      // Silent for longer than conversations are kept, each in its own way: at the start, and between two words.
      const long = Array.from({ length: 8 }, (_, n) =>
        ledger.add(question({ pieces: 2, pace: 2800 }), { server: n % PURGING }),
      );
      const readings = long.map((entry) => stream(cluster.at(entry.server).url, entry));
      await until('the purge', async () => {
        const { conversations } = await takeSnapshot(cluster.place);
        return done.every(({ conversationId }) => !conversations.has(String(conversationId)));
      });
      for (const entry of done) entry.deletion = 'done';
      for (const [n, reading] of readings.entries()) {
        assert.equal(await reading, 'ended');
        assert.deepEqual(long[n]?.end, { kind: 'done', finishReason: 'stop', persisted: true });
      }
      await balance(ledger, cluster.place, { withinMs: 0 });
      for (const entry of long) entry.deletion = 'asked';
      await until('the second purge', async () => (await takeSnapshot(cluster.place)).messages.length === 0);
      const deleted = await query(cluster.place, 'SELECT conversation_id FROM deletions');
      assert.equal(deleted.length, 48);
      const trouble = cluster.members.flatMap(({ child }) =>
        child.lines.filter(({ level }) => level === 'error' || level === 'fatal'),
      );
      assert.deepEqual(trouble, []);
    });
  });
}
