/** Injects random faults into a cluster and its database. Each one is removed before the next one begins. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Cluster, Member } from './cluster.ts';
import type { FaultProxy } from './fault-proxy.ts';
import type { Ledger } from './ledger.ts';
import type { OwnDatabase } from './own-database.ts';
import type { Random } from './random.ts';

/** After an outage, running replies are saved again within this time. */
const RECOVERY_MS = 3000;

export class Faults {
  readonly counts = new Map<string, number>();
  /** The name of the current fault; empty without one. */
  now = '';
  readonly #cluster: Cluster;
  readonly #database: OwnDatabase;
  readonly #proxy: FaultProxy;
  readonly #ledger: Ledger;
  readonly #random: Random;
  /** The last period in which the database had a fault. */
  #trouble = { from: Number.POSITIVE_INFINITY, until: Number.NEGATIVE_INFINITY };

  constructor(cluster: Cluster, database: OwnDatabase, proxy: FaultProxy, ledger: Ledger, random: Random) {
    this.#cluster = cluster;
    this.#database = database;
    this.#proxy = proxy;
    this.#ledger = ledger;
    this.#random = random;
  }

  /** Runs until the signal; resolves when the last fault is removed. */
  async run(signal: AbortSignal): Promise<void> {
    const all: Record<string, () => Promise<void>> = {
      'server killed': () => this.#kill([this.#member()]),
      'all servers killed': () => this.#kill(this.#cluster.members),
      'server stopped': () => this.#stop(this.#member()),
      'server standing still': () => this.#pauseServer(this.#member()),
      'database killed': () => this.#databaseKilled(),
      'database restarted': () => this.#away(() => this.#database.server.restart()),
      'database frozen': () => this.#frozen(),
      'both killed': () => this.#bothKilled(),
      'database connections cut': () => this.#away(async () => this.#proxy.cut()),
      'COMMIT lost': () => this.#commitLost(),
      'database connections stalled': () => this.#stalled(),
      'database slow': () => this.#slow(),
      'model connections cut': async () => this.#cluster.upstreamProxy.cut(),
      'model connections stalled': () => this.#modelStalled(),
    };
    while (!signal.aborted) {
      const name = this.#random.pick(Object.keys(all));
      this.now = name;
      await all[name]?.();
      this.now = '';
      this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
      await pause(this.#random.int(100, 3000));
    }
  }

  #member(): Member {
    return this.#random.pick(this.#cluster.members);
  }

  async #kill(members: readonly Member[]): Promise<void> {
    const { from, until } = this.#trouble;
    const now = performance.now();
    const writableUntil = now < until + RECOVERY_MS ? Math.min(from, now) : now;
    await Promise.all(members.map((member) => member.kill(this.#ledger, writableUntil)));
    await pause(this.#random.int(0, 1500));
    await Promise.all(members.map((member) => member.start()));
  }

  async #stop(member: Member): Promise<void> {
    const { code, signal } = await member.stop();
    if (code !== 0) throw new Error(`a server that was told to stop ended with ${code ?? signal}`);
    await member.start();
  }

  /** Pauses a server for less than its lease, so that its replies are not closed. */
  async #pauseServer({ pid }: Member): Promise<void> {
    process.kill(pid, 'SIGSTOP');
    await pause(this.#random.int(100, 1000));
    process.kill(pid, 'SIGCONT');
  }

  async #away(work: () => Promise<void>): Promise<void> {
    const now = performance.now();
    const from = now < this.#trouble.until + RECOVERY_MS ? this.#trouble.from : now;
    this.#trouble = { from, until: Number.POSITIVE_INFINITY };
    await work();
    this.#trouble = { from, until: performance.now() };
  }

  #databaseKilled(): Promise<void> {
    return this.#away(async () => {
      await this.#database.server.kill();
      await pause(this.#random.int(0, 3000));
      await this.#database.server.start();
    });
  }

  #bothKilled(): Promise<void> {
    return this.#away(async () => {
      await this.#database.server.kill();
      await pause(this.#random.int(0, 1000));
      await this.#kill(this.#cluster.members);
      await this.#database.server.start();
    });
  }

  #frozen(): Promise<void> {
    return this.#away(async () => {
      this.#database.server.freeze();
      await pause(this.#random.int(200, 5000));
      this.#database.server.thaw();
    });
  }

  #commitLost(): Promise<void> {
    return this.#away(async () => {
      const share = this.#random.int(0, 4) / 4;
      const told = Promise.withResolvers<void>();
      this.#proxy.watch((piece, direction) => {
        if (direction !== 'toServer' || !piece.includes('COMMIT')) return undefined;
        told.resolve();
        return Math.round(piece.length * share);
      });
      await Promise.race([told.promise, pause(2000)]);
      this.#proxy.watch(undefined);
    });
  }

  #stalled(): Promise<void> {
    return this.#away(async () => {
      this.#proxy.stall(this.#random.pick(['toServer', 'toClient']));
      await pause(this.#random.int(200, 4000));
      this.#proxy.resume();
    });
  }

  #slow(): Promise<void> {
    return this.#away(async () => {
      this.#proxy.delay(this.#random.int(1, 15));
      this.#proxy.halve(true);
      await pause(this.#random.int(500, 3000));
      this.#proxy.delay(0);
      this.#proxy.halve(false);
    });
  }

  async #modelStalled(): Promise<void> {
    this.#cluster.upstreamProxy.stall(this.#random.pick(['toServer', 'toClient']));
    await pause(this.#random.int(200, 3000));
    this.#cluster.upstreamProxy.resume();
  }
}
