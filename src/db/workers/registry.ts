import type { Knex } from 'knex';
import type { Logger } from 'pino';
import { toTime } from '../core/codec.ts';
import { dialectOf } from '../core/dialect.ts';
import { transaction } from '../core/errors.ts';
import type { ProcessLock } from './process-lock.ts';

export interface WorkerOptions {
  /** This process: a UUID that no other one has or had; `messages.worker` of the replies that it writes. */
  readonly id: string;
  /** A process that falls silent is found dead within this time, milliseconds; a quarter of it is between two rounds. */
  readonly leaseMs: number;
  readonly processLock?: ProcessLock | undefined;
  /** Monotonic, milliseconds. */
  readonly now?: () => number;
}

/** So many looks in a row that find a beat unchanged, after the one that found it first. */
const MISSED_HEARTBEATS = 3;

type Beat = number | null;

interface Seen {
  readonly beat: Beat;
  /** Looks since then that found the same. */
  readonly unchanged: number;
}

interface WorkerRow {
  id: string;
  beat: number;
  started_at: string;
}

/**
 * Shows the other processes of the database that this one is alive, closes the replies of those that are not, and lets
 * go of the export jobs that they had.
 * No clock of a host or of the database is asked: whoever counts on is alive, however slow.
 */
export class WorkerRegistry {
  readonly #knex: Knex;
  readonly #id: string;
  readonly #intervalMs: number;
  readonly #processLock: ProcessLock | undefined;
  readonly #now: () => number;
  readonly #logger: Logger;
  #seen = new Map<string, Seen>();
  #lookedAt = 0;
  #askedPresence = false;
  #away = false;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #stopped = false;

  /** @param knex on MySQL the writer's own, so that busy readers cannot keep this process from showing itself */
  constructor(knex: Knex, options: WorkerOptions, logger: Logger) {
    this.#knex = knex;
    this.#id = options.id;
    // The first look that finds a beat may come an interval after it.
    this.#intervalMs = options.leaseMs / (MISSED_HEARTBEATS + 1);
    this.#processLock = options.processLock;
    this.#now = options.now ?? (() => performance.now());
    this.#logger = logger;
  }

  /** How many processes of the database are alive as far as is known, this one included. */
  get alive(): number {
    let others = 0;
    for (const { beat, unchanged } of this.#seen.values())
      if (beat !== null && unchanged < MISSED_HEARTBEATS) others += 1;
    return 1 + others;
  }

  /** Begins the rounds. Resolves after the first, whether it succeeded or the database is away; never rejects. */
  start(): Promise<void> {
    if (!this.#stopped && !this.#timer) this.#running ??= this.#cycle();
    return this.#running ?? Promise.resolve();
  }

  /**
   * Ends the rounds and signs this process off, for which it must have no reply open any more. Never rejects; takes
   * no longer than the connection lets a statement take.
   */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#running;
    // Without it the row is found silent and removed by others.
    await this.#knex<WorkerRow>('workers')
      .where({ id: this.#id })
      .delete()
      .catch(() => {});
    this.#processLock?.release();
  }

  /** Shows that this process is alive and looks for others that are not. Never rejects. Not for two at once. */
  async round(): Promise<void> {
    let silent: [string, Beat][];
    try {
      await this.#beat();
      await this.#closeAbandoned();
      silent = await this.#look();
      this.#away = false;
    } catch (error) {
      this.#missed(error);
      return;
    }
    for (const [id, beat] of silent) {
      try {
        const replies = await this.#closeSilent(id, beat);
        if (replies !== null) this.#tell(id, replies);
        this.#seen.delete(id);
      } catch (error) {
        // It stays counted as silent, so the next round tries again.
        this.#logger.warn({ err: error, worker: id }, 'the replies of a dead process could not be closed');
      }
    }
  }

  /**
   * Closes the replies of processes that are known to be dead, whenever they beat last.
   * @returns how many there were
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
      this.#tell(id, replies);
      all += replies;
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

  async #beat(): Promise<void> {
    const beats = await this.#knex<WorkerRow>('workers').where({ id: this.#id }).increment('beat', 1);
    if (beats > 0) return;
    // The first time, or others took this process for dead while it was frozen.
    await this.#knex<WorkerRow>('workers').insert({ id: this.#id, beat: 1, started_at: toTime(Date.now()) });
  }

  /** Of the processes of this host that were killed, without waiting until they have been silent for long. */
  async #closeAbandoned(): Promise<void> {
    if (!this.#processLock || this.#askedPresence) return;
    const ids = this.#processLock.listDead();
    await this.reapDead(ids);
    for (const id of ids) this.#processLock.remove(id);
    this.#askedPresence = true;
  }

  /** @returns those who have been silent for long enough, with their last beat; null: they never had one */
  async #look(): Promise<[string, Beat][]> {
    const dialect = dialectOf(this.#knex);
    // After a pause of this process the others may have paused too, as on a host that slept.
    const late = this.#now() - this.#lookedAt > 2 * this.#intervalMs;
    const rows = await dialect.select<{ id: string; beat: Beat }>(
      this.#knex,
      `SELECT id, beat FROM workers
       UNION ALL SELECT DISTINCT worker, NULL FROM messages ${dialect.forceIndex('messages_worker')} WHERE worker IS NOT NULL
       UNION ALL SELECT DISTINCT worker, NULL FROM export_jobs ${dialect.forceIndex('export_jobs_worker')} WHERE worker IS NOT NULL`,
      [],
    );
    const beats = new Map<string, Beat>();
    for (const { id, beat } of rows) if (id !== this.#id) beats.set(id, beats.get(id) ?? beat);
    const before = late ? new Map<string, Seen>() : this.#seen;
    this.#seen = new Map();
    for (const [id, beat] of beats) {
      const known = before.get(id);
      this.#seen.set(id, { beat, unchanged: known && known.beat === beat ? known.unchanged + 1 : 0 });
    }
    this.#lookedAt = this.#now();
    return [...this.#seen]
      .filter(([, { unchanged }]) => unchanged >= MISSED_HEARTBEATS)
      .map(([id, { beat }]) => [id, beat]);
  }

  /** Where this process cannot reach the database, maybe nobody can: nobody has been silent until now. */
  #missed(error: unknown): void {
    for (const [id, { beat }] of this.#seen) this.#seen.set(id, { beat, unchanged: -1 });
    if (this.#away) return;
    this.#away = true;
    this.#logger.warn({ err: error }, 'this process cannot show that it is alive; it keeps trying');
  }

  /** @returns how many replies were closed; null when somebody else did it, or the process is alive after all */
  #closeSilent(id: string, beat: Beat): Promise<number | null> {
    return transaction(this.#knex, async (trx) => {
      const row = trx<WorkerRow>('workers');
      // Both begin with a write, which locks the row where there is one: a beat that moved meanwhile is seen.
      const same =
        beat === null
          ? (await row.where({ id }).increment('beat', 0)) === 0
          : (await row.where({ id, beat }).delete()) > 0;
      return same ? release(trx, id) : null;
    });
  }

  #tell(worker: string, replies: number): void {
    if (replies > 0) this.#logger.warn({ worker, replies }, 'closed the replies of a process that died');
    else this.#logger.info({ worker }, 'removed a process that died; it had no reply open');
  }
}

/**
 * Its export jobs are for others to go on with, and so is telling of those that have ended.
 * @returns how many replies ended so; the others had ended before, and only lose the name of their writer
 */
async function release(trx: Knex, worker: string): Promise<number> {
  const replies = await trx('messages')
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
