import type { Knex } from 'knex';
import type { Logger } from 'pino';
import { isUnavailable } from '../../domain/errors.ts';
import { toTime } from '../core/codec.ts';
import { dialectOf } from '../core/dialect.ts';
import { toAppError, transaction } from '../core/errors.ts';
import { closeHistories } from './histories.ts';
import type { ProcessLock } from './process-lock.ts';

export interface WorkerOptions {
  /** This process: a UUID that is never used again; `messages.worker` of the replies that it writes. */
  readonly id: string;
  /** A worker without a heartbeat is dead after this time; heartbeats come four times as often. */
  readonly leaseMs: number;
  readonly processLock?: ProcessLock | undefined;
  /** Monotonic, milliseconds. */
  readonly now?: () => number;
}

/** Polls in a row that find a heartbeat unchanged, after the one that saw it first. */
const MISSED_HEARTBEATS = 3;
/** The first poll that sees a heartbeat may come an interval after it. */
export const HEARTBEATS_PER_LEASE = MISSED_HEARTBEATS + 1;

type Beat = number | null;

interface Seen {
  readonly beat: Beat;
  /** Polls since then with the same value. */
  readonly unchanged: number;
}

interface WorkerRow {
  id: string;
  beat: number;
  started_at: string;
}

/**
 * Sends heartbeats of this process, and reaps dead workers: closes their replies and releases their export jobs. A
 * heartbeat is a counter, so that no clock of a host or of the database matters.
 */
export class WorkerRegistry {
  readonly #knex: Knex;
  readonly #id: string;
  readonly #intervalMs: number;
  readonly #processLock: ProcessLock | undefined;
  readonly #now: () => number;
  readonly #logger: Logger;
  #seen = new Map<string, Seen>();
  #polledAt = 0;
  #reapedHost = false;
  #isFailing = false;
  #isWritable = true;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #stopped = false;

  /** @param knex on MySQL the writer's own, so that busy readers cannot delay heartbeats */
  constructor(knex: Knex, options: WorkerOptions, logger: Logger) {
    this.#knex = knex;
    this.#id = options.id;
    this.#intervalMs = options.leaseMs / HEARTBEATS_PER_LEASE;
    this.#processLock = options.processLock;
    this.#now = options.now ?? (() => performance.now());
    this.#logger = logger;
  }

  /** How many workers of the database are known to be alive, this one included. */
  get alive(): number {
    let others = 0;
    for (const { beat, unchanged } of this.#seen.values())
      if (beat !== null && unchanged < MISSED_HEARTBEATS) others += 1;
    return 1 + others;
  }

  /** Whether the last heartbeat was written. */
  get wasWritable(): boolean {
    return this.#isWritable;
  }

  /**
   * Whether the database takes writes, by the last heartbeat; after one that failed, by a new one. A lock is no
   * failure.
   */
  async isWritable(): Promise<boolean> {
    if (!this.#isWritable && this.#timer && !this.#stopped) {
      clearTimeout(this.#timer);
      this.#running ??= this.#cycle();
      await this.#running;
    }
    return this.#isWritable;
  }

  /** Starts the heartbeats. Resolves after the first one, successful or not; never rejects. */
  start(): Promise<void> {
    if (!this.#stopped && !this.#timer) this.#running ??= this.#cycle();
    return this.#running ?? Promise.resolve();
  }

  /**
   * Stops the heartbeats and removes this worker, which must have no open reply. Never rejects; takes at most one
   * statement timeout.
   */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#running;
    // If this fails, other workers reap the row.
    await this.#knex<WorkerRow>('workers')
      .where({ id: this.#id })
      .delete()
      .catch(() => {});
    this.#processLock?.release();
  }

  /** One heartbeat, and reaping. Never rejects. Must not run twice at the same time. */
  async round(): Promise<void> {
    let stale: [string, Beat][];
    try {
      await this.#heartbeat();
      this.#isWritable = true;
      await this.#reapHost();
      stale = await this.#poll();
      this.#isFailing = false;
    } catch (error) {
      this.#heartbeatFailed(error);
      return;
    }
    for (const [id, beat] of stale) {
      try {
        const replies = await this.#reapStale(id, beat);
        if (replies !== null) await this.#reaped(id, replies);
        this.#seen.delete(id);
      } catch (error) {
        // It stays stale, so the next round tries again.
        this.#logger.warn({ err: error, worker: id }, 'closing the replies of a dead worker failed');
      }
    }
  }

  /**
   * Reaps workers that are known to be dead, whenever their last heartbeat was.
   * @returns how many replies were closed
   * @throws the driver's error
   */
  async reapDead(ids: readonly string[]): Promise<number> {
    let all = 0;
    for (const id of ids) {
      const replies = await transaction(this.#knex, async (trx) => {
        await trx<WorkerRow>('workers').where({ id }).delete();
        return release(trx, id);
      });
      this.#seen.delete(id);
      await this.#reaped(id, replies);
      all += replies.length;
    }
    return all;
  }

  async #cycle(): Promise<void> {
    await this.round();
    this.#running = undefined;
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#running = this.#cycle();
    }, this.#intervalMs);
    this.#timer.unref();
  }

  async #heartbeat(): Promise<void> {
    const beats = await this.#knex<WorkerRow>('workers').where({ id: this.#id }).increment('beat', 1);
    if (beats > 0) return;
    // First heartbeat, or this process was frozen and the others have reaped it.
    await this.#knex<WorkerRow>('workers').insert({ id: this.#id, beat: 1, started_at: toTime(Date.now()) });
  }

  /** Reaps killed workers of this host on the first round, without waiting for their lease. */
  async #reapHost(): Promise<void> {
    if (!this.#processLock || this.#reapedHost) return;
    const ids = this.#processLock.listDead();
    await this.reapDead(ids);
    for (const id of ids) this.#processLock.remove(id);
    this.#reapedHost = true;
  }

  /** @returns the workers without a heartbeat for long enough, with their last one; null: they never had one */
  async #poll(): Promise<[string, Beat][]> {
    // After a pause of this process the others may have paused too, as on a host that was suspended.
    const isLate = this.#now() - this.#polledAt > 2 * this.#intervalMs;
    const rows: { id: string; beat: Beat }[] = await this.#knex<WorkerRow>('workers')
      .select('id', 'beat')
      .unionAll([this.#workersIn('messages'), this.#workersIn('export_jobs')]);
    const beats = new Map<string, Beat>();
    for (const { id, beat } of rows) if (id !== this.#id) beats.set(id, beats.get(id) ?? beat);
    const before = isLate ? new Map<string, Seen>() : this.#seen;
    this.#seen = new Map();
    for (const [id, beat] of beats) {
      const known = before.get(id);
      this.#seen.set(id, { beat, unchanged: known && known.beat === beat ? known.unchanged + 1 : 0 });
    }
    this.#polledAt = this.#now();
    return [...this.#seen]
      .filter(([, { unchanged }]) => unchanged >= MISSED_HEARTBEATS)
      .map(([id, { beat }]) => [id, beat]);
  }

  #workersIn(table: 'messages' | 'export_jobs'): Knex.QueryBuilder {
    const index = dialectOf(this.#knex).forceIndex(`${table}_worker`);
    return this.#knex
      .from(this.#knex.raw(`${table} ${index}`))
      .distinct('worker', this.#knex.raw('NULL'))
      .whereNotNull('worker');
  }

  /** While this process cannot reach the database, others may not either: their missed heartbeats do not count. */
  #heartbeatFailed(error: unknown): void {
    for (const [id, { beat }] of this.#seen) this.#seen.set(id, { beat, unchanged: -1 });
    if (isUnavailable(toAppError(error))) this.#isWritable = false;
    if (this.#isFailing) return;
    this.#isFailing = true;
    this.#logger.warn({ err: error }, 'heartbeat failed');
  }

  /** @returns the replies that were closed; null when another process did it, or the worker is alive */
  #reapStale(id: string, beat: Beat): Promise<string[] | null> {
    return transaction(this.#knex, async (trx) => {
      const row = trx<WorkerRow>('workers');
      // Both begin with a write, which locks the row: a newer heartbeat is seen.
      const isStale =
        beat === null
          ? (await row.where({ id }).increment('beat', 0)) === 0
          : (await row.where({ id, beat }).delete()) > 0;
      return isStale ? release(trx, id) : null;
    });
  }

  async #reaped(worker: string, replies: readonly string[]): Promise<void> {
    if (replies.length === 0) {
      this.#logger.info({ worker }, 'removed a dead worker');
      return;
    }
    this.#logger.warn({ worker, replies: replies.length }, 'closed the replies of a dead worker');
    await closeHistories(this.#knex, replies).catch((error: unknown) => {
      this.#logger.warn({ err: error, worker }, 'closing the histories of a dead worker failed');
    });
  }
}

/**
 * Closes the streaming replies of the worker, and frees its export jobs and their notifications for other workers.
 * @returns the replies that were streaming
 */
async function release(trx: Knex, worker: string): Promise<string[]> {
  const replies: string[] = await trx('messages').where({ worker, status: 'streaming' }).pluck('uid');
  await trx('messages')
    .where({ worker, status: 'streaming' })
    .update({
      status: 'incomplete',
      finish_reason: 'error',
      worker: null,
      updated_at: toTime(Date.now()),
    });
  await trx('messages').where({ worker }).update({ worker: null });
  await trx('export_jobs').where({ worker }).update({ worker: null });
  return replies;
}
