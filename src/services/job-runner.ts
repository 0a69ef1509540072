import { AppError } from '../domain/errors.ts';
import type {
  ExportFiles,
  ExportFileWriter,
  ExportJob,
  ExportJobStore,
  JobCheckpoint,
} from '../domain/export-jobs.ts';
import type { Clock, Log } from '../domain/ports.ts';
import type { ExportService, JobText } from './exports.ts';

interface RunnerParts {
  readonly store: ExportJobStore;
  readonly files: ExportFiles;
  readonly exports: ExportService;
  readonly clock: Clock;
  readonly worker: string;
  readonly log: Log;
  /** Tells those who asked for it that a job has ended; called once in a while. */
  readonly notify: (signal: AbortSignal) => Promise<void>;
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
/** What a crash repeats at most, and how soon a cancel from elsewhere is seen. */
const CHECKPOINT_MS = 800;
const AWAY_MS = 2000;
const SWEEP_MS = 600_000;
const SWEEP_BATCH = 100;

interface Running {
  readonly abort: AbortController;
  job: ExportJob;
  done: Promise<void>;
}

/** Makes the files of export jobs: any job that nobody works on, a few at once. */
export class JobRunner {
  readonly #parts: RunnerParts;
  readonly #settings: RunnerSettings;
  readonly #running = new Map<string, Running>();
  readonly #quit = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #sweptAt = Number.NEGATIVE_INFINITY;

  constructor(parts: RunnerParts, settings: RunnerSettings) {
    this.#parts = parts;
    this.#settings = settings;
  }

  /** Looks for jobs from now on. */
  start(): void {
    this.wake();
  }

  /** Looks at once: there is a new job. */
  wake(): void {
    if (this.#quit.signal.aborted) return;
    clearTimeout(this.#timer);
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
      if (this.#quit.signal.aborted) return;
      this.#timer = setTimeout(() => this.wake(), this.#settings.pollMs ?? POLL_MS).unref();
    });
  }

  /** With what this process knows of it already. */
  current(job: ExportJob): ExportJob {
    const here = this.#running.get(job.id)?.job;
    if (!here || job.status !== 'running') return job;
    return { ...job, scope: here.scope, checkpoint: here.checkpoint };
  }

  /** Resolves when this process has let go of the job. */
  async cancelled(id: string): Promise<void> {
    const running = this.#running.get(id);
    running?.abort.abort();
    await running?.done;
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
      if (!isAway(error)) log.error({ err: error }, 'the export jobs could not be looked at');
    }
  }

  #begin(job: ExportJob): void {
    const abort = new AbortController();
    const running: Running = { abort, job, done: Promise.resolve() };
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
        if (error instanceof LetGo) break;
        if (!isAway(error)) return this.#failed(running.job, error);
        log.warn(fields, 'an export waits for the database');
        await pause(AWAY_MS, running.abort.signal);
      }
    }
    await store.release(id, worker).catch(() => {});
  }

  async #make(running: Running): Promise<void> {
    const { files, exports, store, worker, log, clock } = this.#parts;
    const { id, request } = running.job;
    const scope = running.job.scope ?? (await exports.fixScope(request));
    if (!running.job.scope) keptOrLetGo(await store.saveScope(id, worker, scope));
    let checkpoint = running.job.checkpoint ?? NOTHING;
    let file = await files.open(id, request, checkpoint.bytes);
    if (!file) {
      checkpoint = NOTHING;
      file = await files.open(id, request, 0);
    }
    if (!file) throw new Error('a new file cannot be opened');
    running.job = { ...running.job, scope, checkpoint };
    try {
      checkpoint = await this.#write(running, file, exports.jobText(request, scope, checkpoint));
      const { bytes, sha256 } = await file.finish();
      const manifest = await exports.manifest(running.job, { ...checkpoint, bytes }, sha256);
      await files.saveManifest(id, manifest);
      keptOrLetGo(await store.finish(id, worker, manifest, clock.now()));
      log.info({ export_id: id, messages: checkpoint.messages, bytes }, 'an export is done');
    } finally {
      await file.close();
    }
  }

  /** @returns what the whole file holds */
  async #write(
    running: Running,
    file: ExportFileWriter,
    texts: AsyncIterable<JobText>,
  ): Promise<JobCheckpoint> {
    const { store, worker } = this.#parts;
    const { id } = running.job;
    let state = running.job.checkpoint ?? NOTHING;
    let saved = state;
    let savedAt = performance.now();
    for await (const { text, state: next, resumable } of texts) {
      if (running.abort.signal.aborted) throw new LetGo();
      if (text !== '') await file.write(text);
      state = { ...next, bytes: file.bytes };
      if (performance.now() - savedAt < CHECKPOINT_MS) continue;
      if (resumable) saved = { ...next, bytes: await file.sync() };
      // Also where it cannot be resumed: only so a cancel from elsewhere is seen.
      keptOrLetGo(await store.saveCheckpoint(id, worker, saved));
      running.job = { ...running.job, checkpoint: { ...state, bytes: file.bytes } };
      savedAt = performance.now();
    }
    return state;
  }

  async #failed(job: ExportJob, error: unknown): Promise<void> {
    const { store, files, worker, clock, log } = this.#parts;
    log.error({ err: error, export_id: job.id }, 'an export failed');
    try {
      await files.remove(job.id);
      await store.fail(job.id, worker, reasonOf(error), clock.now());
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

/** The job is not this process's any more. */
class LetGo extends Error {}

function keptOrLetGo(kept: boolean): void {
  if (!kept) throw new LetGo();
}

const NOTHING: JobCheckpoint = {
  position: null,
  conversations: 0,
  messages: 0,
  deleted: 0,
  bytes: 0,
  firstMessageId: null,
  lastMessageId: null,
};

function isAway(error: unknown): boolean {
  return error instanceof AppError && error.code === 'database_unavailable';
}

const FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT']);

/** What went wrong, and what to do, for whoever asked for the export: no paths, no database's words. */
function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (FULL.has(code))
    return 'The disk is full: free some space or remove old exports, then start the export anew';
  if (/^E[A-Z]+$/.test(code))
    return `The file could not be written (${code}); see the log, then start the export anew`;
  return 'Something went wrong here; the log says more';
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => resolve(), { once: true });
    signal.addEventListener('abort', () => clearTimeout(timer), { once: true });
  });
}
