import type {
  ExportCheckpoint,
  ExportFiles,
  ExportJob,
  ExportJobStore,
  ExportManifest,
  JobScope,
} from '../../domain/exports/jobs.ts';
import type { ExportService } from './exports.ts';
import { EMPTY_CHECKPOINT, writeExport } from './write-export.ts';

export interface JobFileParts {
  readonly store: Pick<ExportJobStore, 'isOwned' | 'saveScope' | 'saveCheckpoint'>;
  readonly files: ExportFiles;
  readonly exports: ExportService;
  readonly worker: string;
}

/** What is shown of a running job. */
export interface JobState {
  readonly scope: JobScope;
  readonly checkpoint: ExportCheckpoint;
}

/** The job was cancelled, or another process has claimed it. */
export class JobLostError extends Error {}

export function assertOwned(isOwned: boolean): asserts isOwned {
  if (!isOwned) throw new JobLostError();
}

const CHECKPOINT_MS = 500;
/** How soon a job stops that was cancelled by another process. */
const OWNERSHIP_MS = 800;

/**
 * Writes the file of a job and its manifest, from the job's checkpoint on. `onProgress` is called without a state while
 * the rows are counted.
 * Rejects with JobLostError, the signal's reason, `database_unavailable`, or the error of the file system.
 */
export async function writeJobFile(
  { store, files, exports, worker }: JobFileParts,
  { id, request, startedAt, createdAt, ...job }: ExportJob,
  signal: AbortSignal,
  onProgress: (state?: JobState) => void,
): Promise<ExportManifest> {
  const owned = watchOwnership(() => store.isOwned(id, worker));
  const stop = AbortSignal.any([signal, owned.signal]);
  // Also when a call below never returns.
  signal.addEventListener('abort', owned.stop, { once: true });
  try {
    const scope = job.scope ?? (await exports.fixScope(request, stop, () => onProgress()));
    if (!job.scope) assertOwned(await store.saveScope(id, worker, scope));
    const checkpoint = job.checkpoint ?? EMPTY_CHECKPOINT;
    onProgress({ scope, checkpoint });
    return await writeExport(
      exports,
      { request, scope, startedAt: startedAt ?? createdAt, checkpoint },
      {
        checkpointMs: CHECKPOINT_MS,
        open: (bytes) => files.open(id, request, bytes),
        onProgress: (progress) => onProgress({ scope, checkpoint: progress }),
        saveCheckpoint: async (saved) => assertOwned(await store.saveCheckpoint(id, worker, saved)),
        saveManifest: (manifest) => files.saveManifest(id, manifest),
      },
      stop,
    );
  } finally {
    signal.removeEventListener('abort', owned.stop);
    owned.stop();
  }
}

/** Its signal is aborted when the job is lost. Where the database is unavailable nothing can have changed. */
function watchOwnership(isOwned: () => Promise<boolean>) {
  const lost = new AbortController();
  let isChecking = false;
  const check = async () => {
    if (isChecking) return;
    isChecking = true;
    if (!(await isOwned().catch(() => true))) lost.abort(new JobLostError());
    isChecking = false;
  };
  const timer = setInterval(check, OWNERSHIP_MS);
  return { signal: lost.signal, stop: () => clearInterval(timer) };
}
