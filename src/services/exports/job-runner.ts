import { isDatabaseError } from '../../domain/errors.ts';
import type { ExportJob, ExportJobStore } from '../../domain/exports/jobs.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import { pause } from '../../util/timers.ts';
import { RunningJob, type RunningJobParts, type StallSettings } from './running-job.ts';

interface RunnerParts extends RunningJobParts {
  /** Sends the notifications that are due. */
  readonly notify: (signal: AbortSignal) => Promise<void>;
}

export interface RunnerSettings extends StallSettings {
  /** Jobs that run at the same time in this process. */
  readonly maxJobs: number;
  /** How long ended jobs and their files are kept. */
  readonly keepMs: number;
  /** For tests. */
  readonly pollMs?: number;
}

const POLL_MS = 1000;
/** How long a cancel request waits until the job has stopped. */
const ABORT_WAIT_MS = 500;
const SWEEP_MS = 600_000;
const SWEEP_BATCH = 100;

/** Claims export jobs and writes their files, a few at the same time. */
export class JobRunner {
  readonly #jobParts: RunningJobParts;
  readonly #store: ExportJobStore;
  readonly #files: RunnerParts['files'];
  readonly #worker: string;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #notify: RunnerParts['notify'];
  readonly #settings: RunnerSettings;
  readonly #running = new Map<string, { readonly job: RunningJob; readonly done: Promise<void> }>();
  readonly #quit = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #polling: Promise<void> | undefined;
  /** A job may have arrived that the current poll does not see. */
  #pollAgain = false;
  #upkeep: Promise<void> | undefined;
  #sweptAt = Number.NEGATIVE_INFINITY;

  constructor(parts: RunnerParts, settings: RunnerSettings) {
    this.#jobParts = parts;
    this.#store = parts.store;
    this.#files = parts.files;
    this.#worker = parts.worker;
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#notify = parts.notify;
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
    const state = this.#running.get(job.id)?.job.state;
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
    running.job.abort();
    await Promise.race([running.done, pause(ABORT_WAIT_MS, this.#quit.signal)]);
  }

  /** Releases all jobs, so that other processes resume them. */
  async stop(): Promise<void> {
    this.#quit.abort();
    clearTimeout(this.#timer);
    for (const { job } of this.#running.values()) job.abort();
    await this.#polling;
    await Promise.all([this.#upkeep, ...[...this.#running.values()].map(({ done }) => done)]);
  }

  /** Never rejects. */
  async #poll(): Promise<void> {
    // Not awaited: a webhook that does not respond would delay the next job.
    this.#upkeep ??= this.#unlessDown(async () => {
      await this.#notify(this.#quit.signal);
      await this.#sweep();
    }).finally(() => {
      this.#upkeep = undefined;
    });
    await this.#unlessDown(async () => {
      while (this.#running.size < this.#settings.maxJobs && !this.#quit.signal.aborted) {
        const job = await this.#store.claim(this.#worker, this.#clock.now(), [...this.#running.keys()]);
        if (!job) break;
        this.#start(job.id);
      }
    });
  }

  /** Never rejects. The next poll repeats the work. */
  async #unlessDown(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isDatabaseError(error)) this.#log.error({ err: error }, 'export job poll failed');
    }
  }

  #start(id: string): void {
    const job = new RunningJob(this.#jobParts, this.#settings, id);
    // Claimed while the runner stopped.
    if (this.#quit.signal.aborted) job.abort();
    const done = job.run().finally(() => {
      this.#running.delete(id);
      this.wake();
    });
    this.#running.set(id, { job, done });
  }

  /** Removes jobs past their retention with their files, and files without a job. */
  async #sweep(): Promise<void> {
    if (performance.now() - this.#sweptAt < SWEEP_MS) return;
    this.#sweptAt = performance.now();
    const before = this.#clock.now() - this.#settings.keepMs;
    while (!this.#quit.signal.aborted) {
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
