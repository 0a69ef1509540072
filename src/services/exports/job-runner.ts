import { errorCode, isUnavailable } from '../../domain/errors.ts';
import type { ExportJob } from '../../domain/export-jobs.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import { pause } from '../../util/timers.ts';
import {
  assertOwned,
  EMPTY_CHECKPOINT,
  type JobFileParts,
  JobLostError,
  makeJobFile,
  type RunningJob,
} from './job-file.ts';

interface RunnerParts extends JobFileParts {
  readonly clock: Clock;
  readonly log: Log;
  /** Tells those who asked for it that a job has ended; called once in a while. */
  readonly notify: (signal: AbortSignal) => Promise<void>;
}

interface Running extends RunningJob {
  done: Promise<void>;
}

export interface RunnerSettings {
  /** Jobs of this process at once. */
  readonly maxJobs: number;
  /** How long ended jobs and their files are kept. */
  readonly keepMs: number;
  /** How often jobs of other processes are looked for; tests want it short. */
  readonly pollMs?: number;
}

const POLL_MS = 1000;
const AWAY_MS = 2000;
/** How long whoever cancels a job waits for its end. */
const LETTING_GO_MS = 500;
const SWEEP_MS = 600_000;
const SWEEP_BATCH = 100;

/** Makes the files of export jobs: any job that nobody works on, a few at once. */
export class JobRunner {
  readonly #parts: RunnerParts;
  readonly #settings: RunnerSettings;
  readonly #running = new Map<string, Running>();
  readonly #quit = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  /** There may be a job that the look under way has passed over. */
  #again = false;
  #sweptAt = Number.NEGATIVE_INFINITY;

  constructor(parts: RunnerParts, settings: RunnerSettings) {
    this.#parts = parts;
    this.#settings = settings;
  }

  /** Aborted when this process lets go of everything. */
  get stopping(): AbortSignal {
    return this.#quit.signal;
  }

  /** Looks for jobs from now on. */
  start(): void {
    this.wake();
  }

  /** Looks at once: there is a new job. */
  wake(): void {
    if (this.#quit.signal.aborted) return;
    clearTimeout(this.#timer);
    if (this.#looking) {
      this.#again = true;
      return;
    }
    this.#looking = this.#look().finally(() => {
      this.#looking = undefined;
      if (this.#quit.signal.aborted) return;
      if (this.#again) this.wake();
      else this.#timer = setTimeout(() => this.wake(), this.#settings.pollMs ?? POLL_MS).unref();
    });
    this.#again = false;
  }

  /** With what this process knows of it already. */
  current(job: ExportJob): ExportJob {
    const here = this.#running.get(job.id)?.job;
    if (!here || job.status !== 'running') return job;
    return { ...job, scope: here.scope, checkpoint: here.checkpoint };
  }

  /** Resolves when this process has let go of the job, or is in the midst of a step that takes longer. */
  async cancelled(id: string): Promise<void> {
    const running = this.#running.get(id);
    if (!running) return;
    running.abort.abort();
    await Promise.race([running.done, pause(LETTING_GO_MS, this.#quit.signal)]);
  }

  /** Lets go of all jobs, so that other processes go on with them. */
  async stop(): Promise<void> {
    this.#quit.abort();
    clearTimeout(this.#timer);
    await this.#looking;
    for (const { abort } of this.#running.values()) abort.abort();
    await Promise.all([...this.#running.values()].map(({ done }) => done));
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    const { store, worker, clock, log, notify } = this.#parts;
    try {
      while (this.#running.size < this.#settings.maxJobs && !this.#quit.signal.aborted) {
        const job = await store.claim(worker, clock.now(), [...this.#running.keys()]);
        if (!job) break;
        this.#begin(job);
      }
      await notify(this.#quit.signal);
      await this.#sweep();
    } catch (error) {
      if (!isUnavailable(error)) log.error({ err: error }, 'the export jobs could not be looked at');
    }
  }

  #begin(job: ExportJob): void {
    const abort = new AbortController();
    const saved = job.checkpoint ?? EMPTY_CHECKPOINT;
    const running: Running = { abort, job, saved, manifest: undefined, done: Promise.resolve() };
    this.#running.set(job.id, running);
    running.done = this.#run(running).finally(() => {
      this.#running.delete(job.id);
      this.wake();
    });
  }

  /** Never rejects. While the database is away the job waits. */
  async #run(running: Running): Promise<void> {
    const { store, worker, log } = this.#parts;
    const { id } = running.job;
    const fields = { export_id: id };
    while (!running.abort.signal.aborted) {
      try {
        await this.#make(running);
        return;
      } catch (error) {
        if (error instanceof JobLostError || running.abort.signal.aborted) break;
        if (!isUnavailable(error) || isFull(error)) return this.#failed(running.job, error);
        log.warn(fields, 'an export waits for the database');
        await pause(AWAY_MS, running.abort.signal);
      }
    }
    if (!running.abort.signal.aborted)
      log.info(fields, 'let go of an export: it was cancelled elsewhere, or another process has it');
    try {
      await store.release(id, worker);
      await this.#forget(id);
    } catch {
      // Whoever takes the job up next, or sweeps, sees to it.
    }
  }

  /** Nobody has a use for what this process wrote of a job that was cancelled elsewhere. */
  async #forget(id: string): Promise<void> {
    const job = await this.#parts.store.find(id);
    if (!job || job.status === 'cancelled') await this.#parts.files.remove(id);
  }

  async #make(running: Running): Promise<void> {
    const { store, worker, log, clock } = this.#parts;
    const { id } = running.job;
    running.manifest ??= await makeJobFile(this.#parts, running);
    const { messages, bytes } = running.manifest;
    assertOwned(await store.finish(id, worker, running.manifest, clock.now()));
    log.info({ export_id: id, messages, bytes }, 'an export is done');
  }

  async #failed(job: ExportJob, error: unknown): Promise<void> {
    const { store, files, worker, clock, log } = this.#parts;
    log.error({ err: error, export_id: job.id }, 'an export failed');
    const note = () => store.fail(job.id, worker, reasonOf(error), clock.now());
    try {
      // On a full disk the database may need the room that the file takes; else it may be another's file by now.
      const mine = await note().catch(async () => {
        await files.remove(job.id);
        return note();
      });
      if (mine) await files.remove(job.id);
    } catch (fault) {
      log.error({ err: fault, export_id: job.id }, 'that an export failed could not be noted');
    }
  }

  /** Removes what has been kept long enough, and files that no job knows. */
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

const FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'SQLITE_FULL']);

/** The disk of the file, or that of the database where it is one file beside it. */
function isFull(error: unknown): boolean {
  return (
    FULL.has(errorCode(error) ?? '') || (error instanceof Error && FULL.has(errorCode(error.cause) ?? ''))
  );
}

/** What went wrong, and what to do, for whoever asked for the export: no paths, no database's words. */
function reasonOf(error: unknown): string {
  if (isFull(error))
    return 'The disk is full: free some space or remove old exports, then start the export anew';
  const code = errorCode(error) ?? '';
  if (/^E[A-Z]+$/.test(code))
    return `The file could not be written (${code}); see the log, then start the export anew`;
  return 'Something went wrong here; the log says more';
}
