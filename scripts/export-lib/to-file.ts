/** An export into a file by name, gone on with where an earlier run of the same command line was interrupted. */
import { readFile, rm } from 'node:fs/promises';
import { errorCode } from '../../src/domain/errors.ts';
import type {
  ExportCheckpoint,
  ExportFileWriter,
  ExportJob,
  ExportManifest,
  ExportRequest,
  JobScope,
} from '../../src/domain/export-jobs.ts';
import { fromText, toText } from '../../src/domain/infinity-json.ts';
import { saveManifest, saveText } from '../../src/files/export-files.ts';
import { openPart } from '../../src/files/part-file.ts';
import type { ExportService } from '../../src/services/exports/exports.ts';
import { EMPTY_CHECKPOINT } from '../../src/services/exports/job-file.ts';
import type { Progress } from './progress.ts';
import { UsageError } from './request.ts';

interface FileExport {
  readonly exports: ExportService;
  readonly request: ExportRequest;
  /** Which database that is. */
  readonly database: string;
  readonly out: string;
  readonly restart: boolean;
  readonly progress: Progress;
  readonly stop: AbortSignal;
}

/** What an interrupted run leaves in FILE.part.json. */
interface Saved {
  readonly request: ExportRequest;
  readonly database: string;
  readonly startedAt: number;
  readonly scope: JobScope;
  readonly checkpoint: ExportCheckpoint;
}

/** What a crash repeats at most, and a page. */
const CHECKPOINT_MS = 250;

/** @throws UsageError when what is there belongs to another command line; the signal's reason when it is stopped */
export async function exportToFile(options: FileExport): Promise<ExportManifest> {
  const { exports, out, stop } = options;
  const part = `${out}.part`;
  const place = { part, fresh: `${part}.new`, target: out };
  let saved = options.restart ? null : await readSaved(options);
  const { compression } = options.request;
  let file = saved && (await openPart(place, compression, saved.checkpoint.bytes));
  if (!saved || !file) {
    const scope = await exports.fixScope(options.request);
    const { request, database } = options;
    saved = { request, database, startedAt: Date.now(), scope, checkpoint: EMPTY_CHECKPOINT };
    file = await openPart(place, compression, 0);
  }
  if (!file) throw new Error(`${part} cannot be written`);
  try {
    const state = await write(options, saved, file);
    const { bytes, sha256 } = await file.finish(stop).catch((error: unknown) => {
      stop.throwIfAborted();
      throw error;
    });
    const manifest = await exports.manifest(jobOf(saved), { ...state, bytes }, sha256);
    await saveManifest(`${out}.manifest.json`, manifest);
    await rm(`${part}.json`, { force: true });
    return manifest;
  } finally {
    await file.close();
  }
}

async function write(
  { exports, out, progress, stop }: FileExport,
  saved: Saved,
  file: ExportFileWriter,
): Promise<ExportCheckpoint> {
  const save = (checkpoint: ExportCheckpoint) =>
    saveText(`${out}.part.json`, `${toText({ ...saved, checkpoint })}\n`);
  let state = saved.checkpoint;
  await save(state);
  progress.begin(saved.scope, state);
  let savedAt = performance.now();
  for await (const piece of exports.jobText(saved.request, saved.scope, state)) {
    stop.throwIfAborted();
    if (piece.text !== '') await file.write(piece.text);
    state = { ...piece.state, bytes: file.bytes };
    progress.update(state);
    if (!piece.resumable || performance.now() - savedAt < CHECKPOINT_MS) continue;
    await save({ ...state, bytes: await file.sync() });
    savedAt = performance.now();
  }
  return state;
}

async function readSaved({ out, request, database }: FileExport): Promise<Saved | null> {
  const path = `${out}.part.json`;
  let saved: Saved;
  try {
    saved = fromText(await readFile(path, 'utf8'));
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return null;
    if (!(error instanceof SyntaxError)) throw error;
    throw new UsageError(`${path} is not of an export: remove it, or begin anew with --restart`);
  }
  if (toText(saved.request) === toText(request) && saved.database === database) return saved;
  throw new UsageError(
    `${out}.part belongs to another export that was interrupted: go on with that one by its own options, begin ` +
      'this one anew with --restart, or give it another --out',
  );
}

/** The same manifest as that of a job. */
function jobOf({ request, scope, startedAt, checkpoint }: Saved): ExportJob {
  return {
    id: '',
    owner: null,
    status: 'running',
    request,
    scope,
    checkpoint,
    manifest: null,
    error: null,
    createdAt: startedAt,
    startedAt,
    finishedAt: null,
  };
}
