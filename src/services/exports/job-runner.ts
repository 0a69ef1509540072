import { errorCode, isDatabaseBusy, isDatabaseError } from '../../domain/errors.ts';
import type { ExportJob, ExportJobStore, ExportManifest } from '../../domain/exports/jobs.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import { pause } from '../../util/timers.ts';
import { assertOwned, type JobFileParts, JobLostError, type JobState, writeJobFile } from './job-file.ts';

interface RunnerParts extends JobFileParts {
  readonly store: ExportJobStore;
  readonly clock: Clock;
  readonly log: Log;
  /** Sends the notifications that are due; called at each poll. */
  readonly notify: (signal: AbortSignal) => Promise<void>;
}

interface RunningJob {
  readonly abort: AbortController;
  state: JobState | undefined;
  done: Promise<void>;
  /** When it last made progress, by `performance.now()`. */
  progressAt: number;
  /** The most bytes of text that an attempt has written. */
  furthest: number;
  /** Attempts in a row that ended because the database was busy, without more text. */
  busyAttempts: number;
}

export interface RunnerSettings {
  /** Jobs that run at the same time in this process. */
  readonly maxJobs: number;
  /** How long ended jobs and their files are kept. */
  readonly keepMs: number;
  /** For tests. */
  readonly pollMs?: number;
  readonly stalledMs?: number;
  readonly retryMs?: number;
}

const POLL_MS = 1000;
const RETRY_MS = 2000;
/** A job without progress for this long fails, so that others get its slot. */
const STALLED_MS = 600_000;
/** So does a job that meets locks or slow statements this many times in a row. */
const BUSY_ATTEMPTS = 5;
/** How long a cancel request waits until the job has stopped. */
const ABORT_WAIT_MS = 500;
const SWEEP_MS = 600_000;
const SWEEP_BATCH = 100;

/** Claims export jobs and writes their files, a few at the same time. */
export class JobRunner {
  readonly #store: ExportJobStore;
  readonly #files: JobFileParts['files'];
  readonly #exports: JobFileParts['exports'];
  readonly #worker: string;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #notify: RunnerParts['notify'];
  readonly #settings: RunnerSettings;
  readonly #running = new Map<string, RunningJob>();
  readonly #quit = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #polling: Promise<void> | undefined;
  /** A job may have arrived that the current poll does not see. */
  #pollAgain = false;
  #sweptAt = Number.NEGATIVE_INFINITY;

  constructor({ store, files, exports, worker, clock, log, notify }: RunnerParts, settings: RunnerSettings) {
    this.#store = store;
    this.#files = files;
    this.#exports = exports;
    this.#worker = worker;
    this.#clock = clock;
    this.#log = log;
    this.#notify = notify;
    this.#settings = settings;
  }

  /** Aborted when this process stops. */
  get stopping(): AbortSignal {
    return this.#quit.signal;
  }

  /** Polls now, and then periodically. */
  wake(): void {
    if (this.#quit.signal.aborted) return;
    clearTimeout(this.#timer);
    if (this.#polling) {
      this.#pollAgain = true;
      return;
    }
    this.#polling = this.#poll().finally(() => {
      this.#polling = undefined;
      if (this.#quit.signal.aborted) return;
      if (this.#pollAgain) this.wake();
      else this.#timer = setTimeout(() => this.wake(), this.#settings.pollMs ?? POLL_MS).unref();
    });
    this.#pollAgain = false;
  }

  /** The job with the progress of this process, which is ahead of the stored one. */
  withProgress(job: ExportJob): ExportJob {
    const state = this.#running.get(job.id)?.state;
    return state && job.status === 'running' ? { ...job, ...state } : job;
  }

  /** Whether the job runs in this process. */
  isRunning(id: string): boolean {
    return this.#running.has(id);
  }

  /** Stops the job if it runs here. Resolves when it has stopped, or after ABORT_WAIT_MS. */
  async abort(id: string): Promise<void> {
    const running = this.#running.get(id);
    if (!running) return;
    running.abort.abort();
    await Promise.race([running.done, pause(ABORT_WAIT_MS, this.#quit.signal)]);
  }

  /** Releases all jobs, so that other processes resume them. */
  async stop(): Promise<void> {
    this.#quit.abort();
    clearTimeout(this.#timer);
    for (const { abort } of this.#running.values()) abort.abort();
    await this.#polling;
    await Promise.all([...this.#running.values()].map(({ done }) => done));
  }

  /** Never rejects. */
  async #poll(): Promise<void> {
    try {
      while (this.#running.size < this.#settings.maxJobs && !this.#quit.signal.aborted) {
        const job = await this.#store.claim(this.#worker, this.#clock.now(), [...this.#running.keys()]);
        if (!job) break;
        this.#start(job.id);
      }
      await this.#notify(this.#quit.signal);
      await this.#sweep();
    } catch (error) {
      if (!isDatabaseError(error)) this.#log.error({ err: error }, 'export job poll failed');
    }
  }

  #start(id: string): void {
    const running: RunningJob = {
      abort: new AbortController(),
      state: undefined,
      done: Promise.resolve(),
      progressAt: performance.now(),
      furthest: 0,
      busyAttempts: 0,
    };
    this.#running.set(id, running);
    // Claimed while the runner stopped.
    if (this.#quit.signal.aborted) running.abort.abort();
    running.done = this.#run(id, running).finally(() => {
      this.#running.delete(id);
      this.wake();
    });
  }

  /** Never rejects. Retries while the database is unavailable or busy, within the bounds of {@link isStalled}. */
  async #run(id: string, running: RunningJob): Promise<void> {
    const { signal } = running.abort;
    let manifest: ExportManifest | undefined;
    while (!signal.aborted) {
      try {
        manifest ??= await this.#attempt(id, running);
        assertOwned(await this.#store.finish(id, this.#worker, manifest, this.#clock.now()));
        const { messages, bytes } = manifest;
        this.#log.info({ export_id: id, messages, bytes }, 'export finished');
        return;
      } catch (error) {
        if (signal.aborted) break;
        if (error instanceof JobLostError) {
          this.#log.info({ export_id: id }, 'export job lost: cancelled, or claimed by another process');
          break;
        }
        if (!isDatabaseError(error) || isDiskFull(error)) return this.#recordFailure(id, error);
        if (this.#isStalled(error, running) && (await this.#recordStall(id, error))) return;
        this.#log.warn({ export_id: id, code: errorCode(error) }, 'export waiting for the database');
        await pause(this.#settings.retryMs ?? RETRY_MS, signal);
      }
    }
    await this.#release(id);
  }

  /** Rejects with StalledError after STALLED_MS without progress, even if a call never returns. */
  async #attempt(id: string, running: RunningJob): Promise<ExportManifest> {
    const stalledMs = this.#settings.stalledMs ?? STALLED_MS;
    const stalled = new AbortController();
    const began = performance.now();
    const timer = setInterval(() => {
      const since = Math.max(began, running.progressAt);
      if (performance.now() - since >= stalledMs) stalled.abort(new StalledError());
    }, stalledMs / 10).unref();
    try {
      const signal = AbortSignal.any([running.abort.signal, stalled.signal]);
      const writing = this.#write(id, running, signal);
      writing.catch(() => {});
      return await Promise.race([writing, rejection(stalled.signal)]);
    } finally {
      clearInterval(timer);
    }
  }

  async #write(id: string, running: RunningJob, signal: AbortSignal): Promise<ExportManifest> {
    const job = await this.#store.find(id);
    assertOwned(job !== null);
    const { bytes = 0 } = job.checkpoint ?? {};
    running.furthest = Math.max(running.furthest, bytes);
    const parts = {
      store: this.#store,
      files: this.#files,
      exports: this.#exports,
      worker: this.#worker,
    };
    return writeJobFile(parts, job, signal, (state) => {
      running.progressAt = performance.now();
      if (!state) return;
      running.state = state;
      if (state.checkpoint.bytes <= running.furthest) return;
      running.furthest = state.checkpoint.bytes;
      running.busyAttempts = 0;
    });
  }

  /** Whether retries do not help. An outage of the whole database is no reason: see {@link #recordStall}. */
  #isStalled(error: unknown, running: RunningJob): boolean {
    running.busyAttempts = isDatabaseBusy(error) ? running.busyAttempts + 1 : 0;
    if (running.busyAttempts >= BUSY_ATTEMPTS) return true;
    return performance.now() - running.progressAt >= (this.#settings.stalledMs ?? STALLED_MS);
  }

  /**
   * Ends the job because the database keeps it from making progress. False when this cannot be stored either: then the
   * database serves no other job, and this one waits for it.
   */
  async #recordStall(id: string, error: unknown): Promise<boolean> {
    try {
      await this.#fail(id, STALLED_REASON);
    } catch {
      return false;
    }
    this.#log.error({ err: error, export_id: id }, 'export failed');
    return true;
  }

  /** Never rejects: when this fails, the reaper of stale workers and the sweep do the same later. */
  async #release(id: string): Promise<void> {
    try {
      await this.#store.release(id, this.#worker);
      const job = await this.#store.find(id);
      if (!job || job.status === 'cancelled') await this.#files.remove(id);
    } catch {}
  }

  async #recordFailure(id: string, error: unknown): Promise<void> {
    this.#log.error({ err: error, export_id: id }, 'export failed');
    const reason = failureReason(error);
    try {
      // On a full disk the database may need the room that the file takes.
      await this.#fail(id, reason).catch(async () => {
        await this.#files.remove(id);
        await this.#fail(id, reason);
      });
    } catch (cause) {
      this.#log.error({ err: cause, export_id: id }, 'export failure not recorded');
    }
  }

  /** A file that is not owned any more belongs to the process that has the job now. */
  async #fail(id: string, reason: string): Promise<void> {
    const owned = await this.#store.fail(id, this.#worker, reason, this.#clock.now());
    if (owned) await this.#files.remove(id);
  }

  /** Removes jobs past their retention with their files, and files without a job. */
  async #sweep(): Promise<void> {
    if (performance.now() - this.#sweptAt < SWEEP_MS) return;
    this.#sweptAt = performance.now();
    const before = this.#clock.now() - this.#settings.keepMs;
    for (;;) {
      const old = await this.#store.endedBefore(before, SWEEP_BATCH);
      for (const { id } of old) {
        await this.#files.remove(id);
        await this.#store.remove(id);
      }
      if (old.length < SWEEP_BATCH) break;
    }
    await this.#files.sweep(async (id) => (await this.#store.find(id)) !== null);
  }
}

/** The job made no progress for STALLED_MS, although no call failed. */
class StalledError extends Error {
  constructor() {
    super('the export made no progress');
    this.name = 'StalledError';
  }
}

const STALLED_REASON =
  'The database was too busy, and the export made no progress: look for locks and slow statements, then start a new export';

function rejection(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

const DISK_FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'SQLITE_FULL']);

/** The disk of the file, or that of an SQLite database. */
function isDiskFull(error: unknown): boolean {
  const codes = [errorCode(error), error instanceof Error ? errorCode(error.cause) : undefined];
  return codes.some((code) => code !== undefined && DISK_FULL.has(code));
}

/** What the owner of the job is shown: no paths and no text of other programs. */
function failureReason(error: unknown): string {
  if (error instanceof StalledError) return STALLED_REASON;
  if (isDiskFull(error))
    return 'The disk is full: free some space or remove old exports, then start a new export';
  const code = errorCode(error) ?? '';
  if (/^E[A-Z]+$/.test(code))
    return `The file could not be written (${code}): see the log, then start a new export`;
  return 'The export failed with an internal error: see the log';
}
