/**
 * `npm run chaos -- [--minutes N] [--seed S] [--servers K] [--callers L]`: runs a cluster with a MariaDB server of its
 * own under steady load and injects random faults. Afterwards it compares every reply that a caller saw with the
 * database; the exit code is 1 when they differ.
 */
import { randomInt } from 'node:crypto';
import { readArguments } from '../src/util/command-line.ts';
import { balance } from '../test/support/balance.ts';
import { Faults } from '../test/support/chaos-faults.ts';
import { Caller } from '../test/support/chaos-load.ts';
import { startCluster } from '../test/support/cluster.ts';
import { startFaultProxy } from '../test/support/fault-proxy.ts';
import { Ledger } from '../test/support/ledger.ts';
import { startOwnDatabase } from '../test/support/own-database.ts';
import { randomFrom } from '../test/support/random.ts';

const REPORT_MS = 10_000;
const SETTLE_MS = 60_000;

const USAGE = `usage: npm run chaos -- [options]
  --minutes N  default: 1
  --seed S     repeats a run
  --servers K  default: 3
  --callers L  default: 12
Runs servers and a MariaDB under load with random faults. The exit code is 1 when callers and database differ.`;

const { values } = readArguments(USAGE, {
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string', default: String(randomInt(2 ** 31)) },
    servers: { type: 'string', default: '3' },
    callers: { type: 'string', default: '12' },
  },
});

interface Run {
  readonly seed: number;
  readonly ms: number;
  readonly servers: number;
  readonly callers: number;
}

async function chaos({ seed, ms, servers, callers }: Run): Promise<void> {
  const random = randomFrom(seed);
  const ledger = Object.assign(new Ledger(), { databaseWasAway: true });
  const database = await startOwnDatabase();
  const proxy = await startFaultProxy(database.port);
  const env = { STREAM_LEASE_MS: '3000', OPENAI_IDLE_TIMEOUT_MS: '2000', HISTORY_LIMIT: '4' };
  const cluster = await startCluster(servers, database.env(proxy), env, database.place);
  const faults = new Faults(cluster, database, proxy, ledger, random.fork());
  const began = performance.now();
  const report = () => console.log(line(performance.now() - began, ledger, faults));
  const timer = setInterval(report, REPORT_MS);
  try {
    const talking = new AbortController();
    const breaking = AbortSignal.any([AbortSignal.timeout(ms), talking.signal]);
    const people = Array.from({ length: callers }, () => new Caller(cluster, ledger, random.fork()));
    const talks = people.map((caller) => caller.run(talking.signal));
    const failed = Promise.all(talks);
    await Promise.race([faults.run(breaking), failed]).finally(() => talking.abort());
    await failed;
    clearInterval(timer);
    report();
    const { messages, conversations } = await balance(ledger, database.place, { withinMs: SETTLE_MS });
    console.log(
      `balanced: ${ledger.entries.length} questions asked, ${conversations.size} conversations with ` +
        `${messages.length} messages stored`,
    );
  } finally {
    clearInterval(timer);
    await cluster.close();
    await proxy.close();
    await database.server.stop();
  }
}

function line(ms: number, { entries }: Ledger, { counts, now }: Faults): string {
  const count = (which: (entry: Ledger['entries'][number]) => boolean) => entries.filter(which).length;
  const done = count(({ end }) => end?.kind === 'done');
  const cut = count(({ end }) => end?.kind === 'error');
  const wrong = count(({ problems }) => problems.length > 0);
  const broken = [...counts].map(([name, times]) => `${name} ${times}`).join(', ');
  return (
    `${Math.round(ms / 1000)} s: ${entries.length} asked, ${done} done, ${cut} interrupted, ` +
    `${count(({ deletion }) => deletion === 'done')} deleted, ${wrong} wrong; ${broken}${now === '' ? '' : `; now ${now}`}`
  );
}

const run: Run = {
  seed: Number(values.seed),
  ms: Number(values.minutes) * 60_000,
  servers: Number(values.servers),
  callers: Number(values.callers),
};
console.log(`seed ${run.seed}, ${values.minutes} minutes, ${run.servers} servers, ${run.callers} callers`);
try {
  await chaos(run);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  console.error(`seed ${run.seed}: callers and database differ`);
  process.exitCode = 1;
}
