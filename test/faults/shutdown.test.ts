/** Row "SIGTERM with many streams": a server that gets SIGTERM loses none of them. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { balance } from '../support/balance.ts';
import { readToTheEnd, stream } from '../support/caller.ts';
import { databases, until } from '../support/chat-server.ts';
import { startCluster } from '../support/cluster.ts';
import { Ledger } from '../support/ledger.ts';
import { randomised, rounds } from '../support/random.ts';
import { question } from '../support/story.ts';

/** Far more than the connections of a pool, each of which saves once. */
const STREAMS = rounds(100, 1000);
const GRACE_MS = 4000;

for (const place of databases()) {
  describe(`SIGTERM with ${STREAMS} streams, on ${place.name}`, () => {
    it(
      'completes the replies that can, ends the others with an event, saves all, and exits with 0',
      randomised(async (random, t) => {
        const env = { SHUTDOWN_GRACE_MS: String(GRACE_MS), OPENAI_TIMEOUT_MS: '120000' };
        const cluster = await startCluster(1, await place.create(), env);
        t.after(async () => {
          await cluster.close();
          await place.drop();
        });
        const ledger = new Ledger();
        const member = cluster.at(0);
        const readings = Array.from({ length: STREAMS }, (_, n) => {
          // A half would run for minutes.
          const plot = n % 2 === 0 ? { pieces: random.int(2, 8), pace: 700 } : { pieces: 300, pace: 800 };
          const entry = ledger.add(question(plot));
          entry.mayBreak = true;
          return stream(member.url, entry);
        });
        await until('all of them', () => ledger.entries.every(({ acknowledged }) => acknowledged));
        const began = performance.now();
        const exit = await member.stop();
        const took = performance.now() - began;
        assert.deepEqual(exit, { code: 0, signal: null });
        // The streams that are ended would go on for minutes.
        assert(took < GRACE_MS + 20_000, `it took ${took} ms`);
        // Who had not read the last bytes yet reads them now.
        const outcomes = await Promise.race([Promise.all(readings), pause(30_000)]);
        assert(outcomes, 'a stream is open although its server has gone');
        assert.deepEqual(new Set(outcomes), new Set(['ended']));
        const ends = ledger.entries.map(({ end }) => (end?.kind === 'error' ? end.code : end?.finishReason));
        assert.deepEqual(new Set(ends), new Set(['stop', 'shutting_down']));
        t.diagnostic(
          `${ends.filter((end) => end === 'stop').length} finished, stopped in ${Math.round(took)} ms`,
        );
        // On a busy machine, what is not saved 1.5 s after the grace period is in the journal for the next process.
        ledger.databaseWasAway = took > GRACE_MS + 1500;
        if (!ledger.databaseWasAway) await balance(ledger, cluster.place, { withinMs: 0 });
        await member.start();
        await balance(ledger, cluster.place);
        const [cut] = ledger.entries.filter(({ end }) => end?.kind === 'error');
        assert(cut);
        cut.reply.end = undefined;
        cut.reply.lastId = `${cut.streamId}:${cut.shown.length}`;
        await readToTheEnd(() => member.url, cut);
        assert.deepEqual(cut.problems, []);
      }),
    );
  });
}
