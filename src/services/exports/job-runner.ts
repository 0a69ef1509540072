import { errorCode, isUnavailable } from '../../domain/errors.ts';
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
}

export interface RunnerSettings {
  /** Jobs that run at the same time in this process. */
  readonly maxJobs: number;
  /** How long ended jobs and their files are kept. */
  readonly keepMs: number;
  /** For tests. */
  readonly pollMs?: number;
}

const POLL_MS = 1000;
const UNAVAILABLE_RETRY_MS = 2000;
/** How long a cancel request waits until the job has stopped. */
const ABORT_WAIT_MS = 500;
const SWEEP_MS = 600_000;
const SWEEP_BATCH = 100;

/** Claims export jobs and writes their files, a few at the same time. */
export class JobRunner {
  readonly #parts: RunnerParts;
  readonly #settings: RunnerSettings;
  readonly #running = new Map<string, RunningJob>();
  readonly #quit = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #polling: Promise<void> | undefined;
  /** A job may have arrived that the current poll does not see. */
  #pollAgain = false;
  #sweptAt = Number.NEGATIVE_INFINITY;

  constructor(parts: RunnerParts, settings: RunnerSettings) {
    this.#parts = parts;
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
    await this.#polling;
    for (const { abort } of this.#running.values()) abort.abort();
    await Promise.all([...this.#running.values()].map(({ done }) => done));
  }

  /** Never rejects. */
  async #poll(): Promise<void> {
    const { store, worker, clock, log, notify } = this.#parts;
    try {
      while (this.#running.size < this.#settings.maxJobs && !this.#quit.signal.aborted) {
        const job = await store.claim(worker, clock.now(), [...this.#running.keys()]);
        if (!job) break;
        this.#start(job.id);
      }
      await notify(this.#quit.signal);
      await this.#sweep();
    } catch (error) {
      if (!isUnavailable(error)) log.error({ err: error }, 'export job poll failed');
    }
  }

  #start(id: string): void {
    const running: RunningJob = { abort: new AbortController(), state: undefined, done: Promise.resolve() };
    this.#running.set(id, running);
    running.done = this.#run(id, running).finally(() => {
      this.#running.delete(id);
      this.wake();
    });
  }

  /** Never rejects. Retries while the database is unavailable. */
  async #run(id: string, running: RunningJob): Promise<void> {
    const { store, worker, log, clock } = this.#parts;
    const { signal } = running.abort;
    let manifest: ExportManifest | undefined;
    while (!signal.aborted) {
      try {
        manifest ??= await this.#write(id, running);
        assertOwned(await store.finish(id, worker, manifest, clock.now()));
        const { messages, bytes } = manifest;
        log.info({ export_id: id, messages, bytes }, 'export finished');
        return;
      } catch (error) {
        if (signal.aborted) break;
        if (error instanceof JobLostError) {
          log.info({ export_id: id }, 'export job lost: cancelled, or claimed by another process');
          break;
        }
        if (!isUnavailable(error) || isDiskFull(error)) return this.#recordFailure(id, error);
        log.warn({ export_id: id }, 'export waiting for the database');
        await pause(UNAVAILABLE_RETRY_MS, signal);
      }
    }
    await this.#release(id);
  }

  async #write(id: string, running: RunningJob): Promise<ExportManifest> {
    const job = await this.#parts.store.find(id);
    assertOwned(job !== null);
    return writeJobFile(this.#parts, job, running.abort.signal, (state) => {
      running.state = state;
    });
  }

  /** Never rejects: when this fails, the reaper of stale workers and the sweep do the same later. */
  async #release(id: string): Promise<void> {
    const { store, files, worker } = this.#parts;
    try {
      await store.release(id, worker);
      const job = await store.find(id);
      if (!job || job.status === 'cancelled') await files.remove(id);
    } catch {}
  }

  async #recordFailure(id: string, error: unknown): Promise<void> {
    const { store, files, worker, clock, log } = this.#parts;
    log.error({ err: error, export_id: id }, 'export failed');
    const record = () => store.fail(id, worker, failureReason(error), clock.now());
    try {
      // On a full disk the database may need the room that the file takes.
      const owned = await record().catch(async () => {
        await files.remove(id);
        return record();
      });
      // Otherwise the file belongs to the process that has the job now.
      if (owned) await files.remove(id);
    } catch (cause) {
      log.error({ err: cause, export_id: id }, 'export failure not recorded');
    }
  }

  /** Removes jobs past their retention with their files, and files without a job. */
  async #sweep(): Promise<void> {
    if (performance.now() - this.#sweptAt < SWEEP_MS) return;
    this.#sweptAt = performance.now();
    const { store, files, clock } = this.#parts;
    const before = clock.now() - this.#settings.keepMs;
    for (;;) {
      const old = await store.endedBefore(before, SWEEP_BATCH);
      for (const { id } of old) {
        await files.remove(id);
        await store.remove(id);
      }
      if (old.length < SWEEP_BATCH) break;
    }
    await files.sweep(async (id) => (await store.find(id)) !== null);
  }
}

const DISK_FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'SQLITE_FULL']);

/** The disk of the file, or that of an SQLite database. */
function isDiskFull(error: unknown): boolean {
  const codes = [errorCode(error), error instanceof Error ? errorCode(error.cause) : undefined];
  return codes.some((code) => code !== undefined && DISK_FULL.has(code));
}

/** What the owner of the job is shown: no paths and no text of other programs. */
function failureReason(error: unknown): string {
  if (isDiskFull(error))
    return 'The disk is full: free some space or remove old exports, then start a new export';
  const code = errorCode(error) ?? '';
  if (/^E[A-Z]+$/.test(code))
    return `The file could not be written (${code}): see the log, then start a new export`;
  return 'The export failed with an internal error: see the log';
}
