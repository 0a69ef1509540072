import { type Access, canAccess } from '../../domain/access/access.ts';
import type { Counts, Instant } from '../../domain/conversations/conversation.ts';
import { AppError, exportNotFound, type FieldError } from '../../domain/errors.ts';
import type {
  ExportCheckpoint,
  ExportFiles,
  ExportJob,
  ExportJobStore,
  ExportRequest,
  JobListCursor,
} from '../../domain/exports/jobs.ts';
import type { Clock, IdSource } from '../../domain/runtime.ts';
import { pause } from '../../util/timers.ts';
import type { JobRunner } from './job-runner.ts';

/** How often the jobs that readers follow are queried. */
const POLL_MS = 500;

interface ExportJobParts {
  readonly store: ExportJobStore;
  readonly files: ExportFiles;
  readonly runner: JobRunner;
  readonly clock: Clock;
  readonly ids: IdSource;
  /** Why a notification cannot be sent as requested. */
  readonly notificationErrors: (notify: ExportRequest['notify']) => readonly FieldError[];
}

export interface JobProgress {
  readonly conversations: number;
  readonly messages: number;
  readonly bytes: number;
  /** Null until the total is counted. */
  readonly percent: number | null;
  readonly messagesPerSecond: number | null;
  readonly etaSeconds: number | null;
}

export interface JobList {
  readonly jobs: readonly ExportJob[];
  readonly next: JobListCursor | null;
}

/** Exports that are written to files in the background. */
export class ExportJobService {
  readonly #store: ExportJobStore;
  readonly #files: ExportFiles;
  readonly #runner: JobRunner;
  readonly #clock: Clock;
  readonly #ids: IdSource;
  readonly #notificationErrors: ExportJobParts['notificationErrors'];
  /** The jobs that the next poll queries, in their last state. */
  readonly #followed = new Map<string, ExportJob>();
  #poll: Promise<ReadonlyMap<string, ExportJob>> | undefined;

  constructor({ store, files, runner, clock, ids, notificationErrors }: ExportJobParts) {
    this.#store = store;
    this.#files = files;
    this.#runner = runner;
    this.#clock = clock;
    this.#ids = ids;
    this.#notificationErrors = notificationErrors;
  }

  /** Aborted when this process stops. */
  get stopping(): AbortSignal {
    return this.#runner.stopping;
  }

  /**
   * Queues an export. The job belongs to the owner in its filter.
   * @throws AppError `validation` when a notification cannot be sent as requested
   */
  async start(request: ExportRequest): Promise<ExportJob> {
    const errors = this.#notificationErrors(request.notify);
    const [first] = errors;
    if (first) throw new AppError('validation', `${first.path}: ${first.message}`, { errors });
    const job: ExportJob = {
      id: this.#ids.next(),
      owner: request.filter.owner,
      status: 'queued',
      request,
      scope: null,
      checkpoint: null,
      manifest: null,
      error: null,
      createdAt: this.#clock.now(),
      startedAt: null,
      finishedAt: null,
    };
    await this.#store.add(job);
    this.#runner.wake();
    return job;
  }

  /** @throws AppError `export_not_found` */
  async get(id: string, access: Access): Promise<ExportJob> {
    const job = await this.#store.find(id);
    if (!job || !canAccess(access, job.owner)) throw exportNotFound();
    return this.#runner.withProgress(job);
  }

  /**
   * The job after the next poll. All readers of this process share one query per poll; jobs that run here need none.
   * @param last the reader's last state
   * @throws AppError `export_not_found`
   */
  async follow(last: ExportJob): Promise<ExportJob> {
    this.#followed.set(last.id, last);
    this.#poll ??= this.#queryFollowed();
    const job = (await this.#poll).get(last.id);
    if (!job) throw exportNotFound();
    return this.#runner.withProgress(job);
  }

  async #queryFollowed(): Promise<ReadonlyMap<string, ExportJob>> {
    await pause(POLL_MS, this.stopping);
    const followed = [...this.#followed.values()];
    this.#followed.clear();
    this.#poll = undefined;
    const runsHere = ({ id, status }: ExportJob) => status === 'running' && this.#runner.isRunning(id);
    const ids = followed.filter((job) => !runsHere(job)).map(({ id }) => id);
    const found = ids.length === 0 ? [] : await this.#store.findAll(ids);
    return new Map([...followed.filter(runsHere), ...found].map((job) => [job.id, job]));
  }

  async list(access: Access, limit: number, before: JobListCursor | null): Promise<JobList> {
    const rows = await this.#store.list(access, limit + 1, before);
    const jobs = rows.slice(0, limit).map((job) => this.#runner.withProgress(job));
    const last = rows.length > limit ? jobs.at(-1) : undefined;
    return { jobs, next: last ? { createdAt: last.createdAt, id: last.id } : null };
  }

  /** Cancels a job that has not ended, otherwise removes it and its file. @throws AppError `export_not_found` */
  async delete(id: string, access: Access): Promise<'cancelled' | 'removed'> {
    await this.get(id, access);
    if (await this.#store.cancel(id, this.#clock.now())) {
      await this.#runner.abort(id);
      await this.#files.remove(id);
      return 'cancelled';
    }
    await this.#store.remove(id);
    await this.#files.remove(id);
    return 'removed';
  }

  /** The finished file. @throws AppError `export_not_found`, `export_not_ready` */
  async file(id: string, access: Access) {
    const job = await this.get(id, access);
    if (job.status !== 'done' || !job.manifest) throw notReady(job);
    const file = await this.#files.find(id, job.request);
    if (!file)
      throw new AppError(
        'export_not_found',
        'The file of this export is not on this host: start a new export',
      );
    return { ...file, job, manifest: job.manifest };
  }

  /** @throws AppError `export_not_found`, `export_not_ready` */
  async manifest(id: string, access: Access) {
    const job = await this.get(id, access);
    if (!job.manifest) throw notReady(job);
    return job.manifest;
  }
}

/** The progress of the job, by its last checkpoint. */
export function progressOf(job: ExportJob, now: Instant): JobProgress {
  const counts: Pick<ExportCheckpoint, 'conversations' | 'messages' | 'bytes'> = job.manifest ??
    job.checkpoint ?? { conversations: 0, messages: 0, bytes: 0 };
  const { conversations, messages, bytes } = counts;
  const total = job.scope;
  const done = job.status === 'done' ? 1 : total ? fractionOf(counts, total) : null;
  const seconds = job.startedAt === null ? 0 : ((job.finishedAt ?? now) - job.startedAt) / 1000;
  const running = job.status === 'running' && done !== null && done > 0 && seconds > 0;
  return {
    conversations,
    messages,
    bytes,
    percent: done === null ? null : Math.round(done * 1000) / 10,
    messagesPerSecond: seconds > 0 ? Math.round(messages / seconds) : null,
    etaSeconds: running ? Math.ceil((seconds / done) * (1 - done)) : null,
  };
}

function fractionOf(done: Counts, total: Counts): number {
  const whole = total.messages > 0 ? total.messages : total.conversations;
  const part = total.messages > 0 ? done.messages : done.conversations;
  return whole === 0 ? 0 : Math.min(0.999, part / whole);
}

function notReady({ status, error }: ExportJob): AppError {
  const detail =
    status === 'failed' ? `The export failed: ${error}` : `The export is ${status} and has no file`;
  return new AppError('export_not_ready', detail);
}
