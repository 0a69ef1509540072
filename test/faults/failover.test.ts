/** Row "Failover: old server read-only, rights revoked": connections that stay open, and reject writes. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import mysql from 'mysql2/promise';
import { openDatabase } from '../../src/db/database.ts';
import { balance } from '../support/balance.ts';
import { ask, stream } from '../support/caller.ts';
import { until } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { optionsFor, serverUrls, silent } from '../support/databases.ts';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { type Entry, Ledger } from '../support/ledger.ts';
import { findMariadbd } from '../support/mariadb.ts';
import { type OwnDatabase, startOwnDatabase } from '../support/own-database.ts';
import { question } from '../support/story.ts';

/** Writes must reach the database within this time after it takes them again. */
const BACK_MS = 15_000;

if (serverUrls().length > 0 && findMariadbd()) {
  describe('a server whose database', () => {
    let old: OwnDatabase;
    let current: OwnDatabase;
    let proxy: FaultProxy;
    let cluster: Cluster;
    const ledger = Object.assign(new Ledger(), { databaseWasAway: true });

    const run = async ({ server }: OwnDatabase, ...statements: string[]) => {
      const connection = await mysql.createConnection({ uri: server.url });
      for (const sql of statements) await connection.query(sql);
      await connection.end();
    };
    const turn = async (ledger: Ledger, how = ask): Promise<Entry['end']> => {
      const entry = ledger.add(question({ pieces: 3, pace: 1 }));
      assert.equal(await how(cluster.at(0).url, entry), 'ended', String(entry.refusals));
      return entry.end;
    };
    const isPersisted = (end: Entry['end']) => end?.kind === 'done' && end.persisted;
    const readiness = async () => {
      const response = await fetch(`${cluster.at(0).url}/health/ready`);
      const { database } = Object(await response.json());
      return `${response.status} ${database}`;
    };

    before(async () => {
      [old, current] = await Promise.all([startOwnDatabase(), startOwnDatabase()]);
      for (const one of [old, current]) {
        // Root may write to a server that is read-only.
        await run(one, "CREATE USER app@'%' IDENTIFIED BY 'secret'", "GRANT ALL ON chat.* TO app@'%'");
        const database = openDatabase(optionsFor({ kind: 'mysql', url: one.place.url }), silent);
        await database.migrate();
        await database.close();
      }
      proxy = await startFaultProxy(old.port);
      const DATABASE_URL = `mysql://app:secret@127.0.0.1:${proxy.port}/chat`;
      cluster = await startCluster(1, { DATABASE_URL }, { STREAM_LEASE_MS: '8000' }, current.place);
    });
    after(async () => {
      await cluster.close();
      await proxy.close();
      await Promise.all([old.server.stop(), current.server.stop()]);
    });

    it('fails over: no turn is lost, stored twice or stored in the old server, and readers follow', async () => {
      const before = new Ledger();
      assert(isPersisted(await turn(before)));
      // Fills the pool of the readers.
      await Promise.all(
        Array.from({ length: 5 }, () =>
          fetch(`${cluster.at(0).url}/api/conversations`).then((r) => r.text()),
        ),
      );
      await run(old, 'SET GLOBAL read_only = 1');
      assert.deepEqual(await turn(ledger), { kind: 'done', finishReason: 'stop', persisted: false });
      await until('the reported state', async () => (await readiness()) === '503 read_only');
      const running = ledger.add(question({ pieces: 60, pace: 20 }));
      const outcome = stream(cluster.at(0).url, running);
      await until('the stream', () => running.shown.length > 0);
      const began = performance.now();
      proxy.lead(current.port);
      await until('a stored turn', async () => isPersisted(await turn(ledger)));
      await until('readiness', async () => (await readiness()) === '200 up');
      assert(performance.now() - began < BACK_MS);
      assert.equal(await outcome, 'ended');
      await balance(ledger, current.place);
      for (const entry of ledger.entries) {
        const response = await fetch(`${cluster.at(0).url}/api/conversations/${entry.conversationId}`);
        assert.equal(response.status, 200, 'a reader asks the old server');
        await response.text();
      }
      await balance(before, old.place);
    });

    it('takes its rights away: turns go to the journal, other writes are 503, and all works when they are back', async () => {
      await run(
        current,
        "REVOKE ALL ON chat.* FROM app@'%'",
        "GRANT SELECT, DELETE ON chat.* TO app@'%'",
        'KILL USER app',
      );
      for (const how of [ask, stream])
        assert.deepEqual(await turn(ledger, how), { kind: 'done', finishReason: 'stop', persisted: false });
      const job = await fetch(`${cluster.at(0).url}/api/exports`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: '{}',
      });
      assert.equal(job.status, 503);
      assert.match(await job.text(), /"code":"database_unavailable"/);
      await until('the reported state', async () => (await readiness()) === '503 read_only');
      const began = performance.now();
      await run(current, "GRANT ALL ON chat.* TO app@'%'");
      await until('a stored turn', async () => isPersisted(await turn(ledger)));
      await until('readiness', async () => (await readiness()) === '200 up');
      assert(performance.now() - began < BACK_MS);
      await balance(ledger, current.place);
    });
  });
}
