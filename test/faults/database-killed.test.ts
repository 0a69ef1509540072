/** Rows "DB killed mid-stream", "App and DB both die" and "DB restart". */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { balance } from '../support/balance.ts';
import { takeBaseline } from '../support/baseline.ts';
import { ask, stream } from '../support/caller.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { serverUrls } from '../support/databases.ts';
import { type Entry, Ledger } from '../support/ledger.ts';
import { findMariadbd } from '../support/mariadb.ts';
import { type OwnDatabase, startOwnDatabase } from '../support/own-database.ts';
import { type Random, randomised, rounds } from '../support/random.ts';
import { question } from '../support/story.ts';

const KILLS = rounds(2, 20);
const BOTH = rounds(1, 8);
const REPLAYED_MS = 20_000;

if (serverUrls().length > 0 && findMariadbd()) {
  describe('a database that dies', () => {
    let database: OwnDatabase;
    let cluster: Cluster;
    before(async () => {
      database = await startOwnDatabase();
      cluster = await startCluster(2, database.env());
    });
    after(async () => {
      await cluster.close();
      await database.server.stop();
    });

    const newLedger = () => Object.assign(new Ledger(), { databaseWasAway: true });
    /** All tests here share the rows: each balances everything. */
    const ledger = newLedger();

    /** A new conversation at one of the servers. */
    const begin = (random: Random, pieces: number, pace: number): [Entry, Promise<string>] => {
      const member = random.pick(cluster.members);
      const entry = ledger.add(question({ pieces, pace }), { server: member.index });
      const call = random.chance(0.75) ? stream : ask;
      return [entry, call(member.url, entry)];
    };

    /** One conversation after the other, a question at a time; a 503 while the database is away is an answer too. */
    const goOn = async (random: Random, signal: AbortSignal) => {
      let conversationId: string | undefined;
      while (!signal.aborted) {
        const member = random.pick(cluster.members);
        const options = { server: member.index, ...(conversationId === undefined ? {} : { conversationId }) };
        const entry = ledger.add(question({ pieces: random.int(1, 20), pace: 10 }), options);
        const outcome = await stream(member.url, entry);
        if (outcome === 'refused') assert.equal(entry.refusals.at(-1), 503);
        else if (outcome !== 'ended') entry.problems.push(`its stream was ${outcome}`);
        conversationId = random.chance(0.1) ? undefined : entry.conversationId;
        await pause(random.int(0, 100));
      }
    };

    it(
      `mid-stream, ${KILLS} times, loses no reply: done immediately, stored once and in order afterwards`,
      randomised(async (random, t) => {
        const warm = Array.from({ length: 10 }, () => begin(random, 5, 1));
        await Promise.all(warm.map(([, outcome]) => outcome));
        const baseline = await takeBaseline(cluster);
        const stop = new AbortController();
        t.after(() => stop.abort());
        const talks = Array.from({ length: 3 }, () => goOn(random.fork(), stop.signal));
        for (let n = 0; n < KILLS; n += 1) {
          const running = Array.from({ length: 6 }, () =>
            begin(random, random.int(5, 60), random.int(2, 20)),
          );
          await pause(random.int(0, 500));
          await database.server.kill();
          // Somebody asks while it is away: nothing that is stored is needed for a reply.
          const meanwhile = Array.from({ length: 2 }, () =>
            begin(random, random.int(1, 20), random.int(0, 10)),
          );
          await pause(random.int(0, 300));
          await database.server.start();
          for (const [entry, outcome] of [...running, ...meanwhile]) {
            assert.equal(await outcome, 'ended', `${entry.question}: ${entry.refusals}`);
            assert.equal(entry.end?.kind, 'done');
          }
        }
        stop.abort();
        await Promise.all(talks);
        const unpersisted = ledger.entries.filter(({ end }) => end?.kind === 'done' && !end.persisted);
        t.diagnostic(`${ledger.entries.length} asked, ${unpersisted.length} not persisted at first`);
        assert(unpersisted.length > 0);
        await balance(ledger, database.place, { withinMs: REPLAYED_MS });
        await baseline.back();
      }),
    );

    it(
      `and its servers with it, ${BOTH} times: completed turns are there after the replay, without duplicates`,
      randomised(async (random) => {
        for (let n = 0; n < BOTH; n += 1) {
          const running = Array.from({ length: 6 }, () =>
            begin(random, random.int(20, 100), random.int(5, 30)),
          );
          await pause(random.int(50, 700));
          const away = performance.now();
          await database.server.kill();
          const short = Array.from({ length: 4 }, () => begin(random, random.int(1, 10), 5));
          await pause(random.int(50, 500));
          await Promise.all(cluster.members.map((member) => member.kill(ledger, away)));
          await Promise.all([...running, ...short].map(([, outcome]) => outcome));
          // One server before the database, one after it.
          const [early, late] = random.chance(0.5) ? cluster.members : cluster.members.toReversed();
          for (const one of [early, database.server, late]) await one?.start();
        }
        await balance(ledger, database.place, { withinMs: REPLAYED_MS });
      }),
    );

    it(
      'during a restart under load no question fails, and no server needs a restart',
      randomised(async (random, t) => {
        const stop = new AbortController();
        t.after(() => stop.abort());
        const pids = cluster.members.map(({ pid }) => pid);
        const lane = async (own: Random) => {
          while (!stop.signal.aborted) {
            const [entry, outcome] = begin(own, own.int(1, 10), own.int(0, 10));
            const how = await outcome;
            if (how !== 'ended') entry.problems.push(`a new question was ${how}: ${entry.refusals}`);
          }
        };
        const lanes = Array.from({ length: 8 }, () => lane(random.fork()));
        for (let n = 0; n < 2; n += 1) {
          await pause(300);
          await database.server.restart();
        }
        await pause(300);
        stop.abort();
        await Promise.all(lanes);
        assert.deepEqual(
          cluster.members.map(({ pid }) => pid),
          pids,
        );
        await balance(ledger, database.place, { withinMs: REPLAYED_MS });
      }),
    );
  });
}
