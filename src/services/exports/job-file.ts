import type {
  ExportCheckpoint,
  ExportFiles,
  ExportFileWriter,
  ExportJob,
  ExportJobStore,
  ExportManifest,
} from '../../domain/export-jobs.ts';
import type { ExportService, JobText } from './exports.ts';

export interface JobFileParts {
  readonly store: ExportJobStore;
  readonly files: ExportFiles;
  readonly exports: ExportService;
  readonly worker: string;
}

export interface RunningJob {
  readonly abort: AbortController;
  /** With the progress that is shown. */
  job: ExportJob;
  /** From where the file can be gone on with: never ahead of what is stored. */
  saved: ExportCheckpoint;
  /** The file is whole; only the database has not heard of it. */
  manifest: ExportManifest | undefined;
}

/** The job is not this process's any more, or was cancelled. */
export class JobLostError extends Error {}

export function assertOwned(kept: boolean): void {
  if (!kept) throw new JobLostError();
}

export const EMPTY_CHECKPOINT: ExportCheckpoint = {
  position: null,
  conversations: 0,
  messages: 0,
  deleted: 0,
  bytes: 0,
  firstMessageId: null,
  lastMessageId: null,
};

/** What a crash repeats at most, and a page. */
const CHECKPOINT_MS = 500;
/** How soon a cancel from elsewhere is seen, also in the midst of a conversation that fills many pages. */
const LOOK_MS = 800;

/**
 * Makes the file of a job, or goes on with it, and its manifest.
 * Rejects with LetGo, `database_unavailable`, or the error of the file system
 */
export async function makeJobFile(parts: JobFileParts, running: RunningJob): Promise<ExportManifest> {
  const { files, exports, store, worker } = parts;
  const { id, request } = running.job;
  const { signal } = running.abort;
  const scope = running.job.scope ?? (await exports.fixScope(request, signal));
  if (!running.job.scope) assertOwned(await store.saveScope(id, worker, scope));
  const file = await openFile(files, running);
  running.job = { ...running.job, scope, checkpoint: running.saved };
  try {
    const whole = await write(parts, running, file, exports.jobText(request, scope, running.saved));
    const packed = file.finish(signal);
    const { bytes, sha256 } = await watched(parts, running, packed);
    const manifest = await exports.manifest(running.job, { ...whole, bytes }, sha256);
    await files.saveManifest(id, manifest);
    return manifest;
  } finally {
    await file.close();
  }
}

async function openFile(files: ExportFiles, running: RunningJob): Promise<ExportFileWriter> {
  const { id, request } = running.job;
  const known = await files.open(id, request, running.saved.bytes);
  if (known) return known;
  running.saved = EMPTY_CHECKPOINT;
  const anew = await files.open(id, request, 0);
  if (!anew) throw new Error('a new file cannot be opened');
  return anew;
}

/** @returns what the whole file holds */
async function write(
  { store, worker }: JobFileParts,
  running: RunningJob,
  file: ExportFileWriter,
  texts: AsyncIterable<JobText>,
): Promise<ExportCheckpoint> {
  const { id } = running.job;
  let state = running.saved;
  let savedAt = performance.now();
  let lookedAt = savedAt;
  for await (const { text, state: next, resumable } of texts) {
    if (running.abort.signal.aborted) throw new JobLostError();
    if (text !== '') await file.write(text);
    state = { ...next, bytes: file.bytes };
    const now = performance.now();
    const save = resumable && now - savedAt >= CHECKPOINT_MS;
    if (!save && now - lookedAt < LOOK_MS) continue;
    if (save) running.saved = { ...next, bytes: await file.sync() };
    assertOwned(await store.saveCheckpoint(id, worker, running.saved));
    running.job = { ...running.job, checkpoint: { ...state, bytes: file.bytes } };
    lookedAt = performance.now();
    if (save) savedAt = lookedAt;
  }
  return state;
}

/** Looks meanwhile whether the job was cancelled elsewhere, and breaks the work off then. */
async function watched<T>(
  { store, worker }: JobFileParts,
  { abort, job, saved }: RunningJob,
  work: Promise<T>,
): Promise<T> {
  const look = async () => {
    // Where the database is away nobody cancels anything.
    const kept = await store.saveCheckpoint(job.id, worker, saved).catch(() => true);
    if (!kept) abort.abort();
  };
  const timer = setInterval(look, LOOK_MS);
  try {
    return await work;
  } finally {
    clearInterval(timer);
  }
}
