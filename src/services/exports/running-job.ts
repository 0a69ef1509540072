import { errorCode, isDatabaseBusy, isDatabaseError } from '../../domain/errors.ts';
import type { ExportJobStore, ExportManifest } from '../../domain/exports/jobs.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import { pause, unlessAborted } from '../../util/timers.ts';
import { assertOwned, type JobFileParts, JobLostError, type JobState, writeJobFile } from './job-file.ts';

export interface RunningJobParts extends JobFileParts {
  readonly store: ExportJobStore;
  readonly clock: Clock;
  readonly log: Log;
}

/** For tests. */
export interface StallSettings {
  readonly stalledMs?: number;
  readonly retryMs?: number;
}

const RETRY_MS = 2000;
/** A job without progress for this long fails, so that others get its slot. */
const STALLED_MS = 600_000;
/** So does a job that meets locks or slow statements this many times in a row. */
const BUSY_ATTEMPTS = 5;

/** An export job that this process has claimed. */
export class RunningJob {
  readonly #fileParts: JobFileParts;
  readonly #store: ExportJobStore;
  readonly #files: JobFileParts['files'];
  readonly #worker: string;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #id: string;
  readonly #stalledMs: number;
  readonly #retryMs: number;
  readonly #abort = new AbortController();
  #state: JobState | undefined;
  /** When it last made progress, by `performance.now()`. */
  #progressAt = performance.now();
  /** The most bytes of text that an attempt has written. */
  #furthest = 0;
  /** Attempts in a row that ended because the database was busy, without more text. */
  #busyAttempts = 0;

  constructor(
    parts: RunningJobParts,
    { stalledMs = STALLED_MS, retryMs = RETRY_MS }: StallSettings,
    id: string,
  ) {
    this.#fileParts = parts;
    this.#store = parts.store;
    this.#files = parts.files;
    this.#worker = parts.worker;
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#id = id;
    this.#stalledMs = stalledMs;
    this.#retryMs = retryMs;
  }

  /** Undefined until its rows are counted. */
  get state(): JobState | undefined {
    return this.#state;
  }

  /** Stops it; it stays `running` for another process. */
  abort(): void {
    this.#abort.abort();
  }

  /** Never rejects. Retries while the database is unavailable or busy, within the bounds of {@link isStalled}. */
  async run(): Promise<void> {
    const { signal } = this.#abort;
    const fields = { export_id: this.#id };
    let manifest: ExportManifest | undefined;
    while (!signal.aborted) {
      try {
        manifest ??= await this.#attempt();
        assertOwned(await this.#store.finish(this.#id, this.#worker, manifest, this.#clock.now()));
        const { messages, bytes } = manifest;
        this.#log.info({ ...fields, messages, bytes }, 'export finished');
        return;
      } catch (error) {
        if (signal.aborted) break;
        if (error instanceof JobLostError) {
          this.#log.info(fields, 'export job lost: cancelled, or claimed by another process');
          break;
        }
        if (!isDatabaseError(error) || isDiskFull(error)) return this.#recordFailure(error);
        if (this.#isStalled(error) && (await this.#recordStall(error))) return;
        this.#log.warn({ ...fields, code: errorCode(error) }, 'export waiting for the database');
        await pause(this.#retryMs, signal);
      }
    }
    await this.#release();
  }

  /** Rejects with StalledError after STALLED_MS without progress, even if a call never returns. */
  async #attempt(): Promise<ExportManifest> {
    const stalled = new AbortController();
    const began = performance.now();
    const timer = setInterval(() => {
      const since = Math.max(began, this.#progressAt);
      if (performance.now() - since >= this.#stalledMs) stalled.abort(new StalledError());
    }, this.#stalledMs / 10).unref();
    try {
      const signal = AbortSignal.any([this.#abort.signal, stalled.signal]);
      return await unlessAborted(stalled.signal, this.#write(signal));
    } finally {
      clearInterval(timer);
    }
  }

  async #write(signal: AbortSignal): Promise<ExportManifest> {
    const job = await this.#store.find(this.#id);
    assertOwned(job !== null);
    this.#furthest = Math.max(this.#furthest, job.checkpoint?.bytes ?? 0);
    return writeJobFile(this.#fileParts, job, signal, (state) => {
      this.#progressAt = performance.now();
      if (!state) return;
      this.#state = state;
      if (state.checkpoint.bytes <= this.#furthest) return;
      this.#furthest = state.checkpoint.bytes;
      this.#busyAttempts = 0;
    });
  }

  /** Whether retries do not help. An outage of the whole database is no reason: see {@link #recordStall}. */
  #isStalled(error: unknown): boolean {
    this.#busyAttempts = isDatabaseBusy(error) ? this.#busyAttempts + 1 : 0;
    if (this.#busyAttempts >= BUSY_ATTEMPTS) return true;
    return performance.now() - this.#progressAt >= this.#stalledMs;
  }

  /**
   * Ends the job because the database keeps it from making progress. False when this cannot be stored either: then the
   * database serves no other job, and this one waits for it.
   */
  async #recordStall(error: unknown): Promise<boolean> {
    try {
      await this.#fail(STALLED_REASON);
    } catch {
      return false;
    }
    this.#log.error({ err: error, export_id: this.#id }, 'export failed');
    return true;
  }

  async #recordFailure(error: unknown): Promise<void> {
    this.#log.error({ err: error, export_id: this.#id }, 'export failed');
    const reason = failureReason(error);
    try {
      // On a full disk the database may need the room that the file takes.
      await this.#fail(reason).catch(async () => {
        await this.#files.remove(this.#id);
        await this.#fail(reason);
      });
    } catch (cause) {
      this.#log.error({ err: cause, export_id: this.#id }, 'export failure not recorded');
    }
  }

  /** A file that is not owned any more belongs to the process that has the job now. */
  async #fail(reason: string): Promise<void> {
    const owned = await this.#store.fail(this.#id, this.#worker, reason, this.#clock.now());
    if (owned) await this.#files.remove(this.#id);
  }

  /** Never rejects: when this fails, the reaper of stale workers and the sweep do the same later. */
  async #release(): Promise<void> {
    try {
      await this.#store.release(this.#id, this.#worker);
      const job = await this.#store.find(this.#id);
      if (!job || job.status === 'cancelled') await this.#files.remove(this.#id);
    } catch {}
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
