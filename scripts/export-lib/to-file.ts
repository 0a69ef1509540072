/** Exports to a named file. A run with the same command line resumes an interrupted one. */
import { readFile, rm } from 'node:fs/promises';
import { errorCode } from '../../src/domain/errors.ts';
import { fromText, toText } from '../../src/domain/exports/infinity-json.ts';
import type { ExportManifest, ExportRequest } from '../../src/domain/exports/jobs.ts';
import { saveManifest, saveText } from '../../src/files/export-files.ts';
import { openPart } from '../../src/files/part-file.ts';
import type { ExportService } from '../../src/services/exports/exports.ts';
import { EMPTY_CHECKPOINT, type FileExport, writeExport } from '../../src/services/exports/write-export.ts';
import { CommandError } from '../command.ts';
import type { Progress } from './progress.ts';

interface Options {
  readonly request: ExportRequest;
  /** The name of the database, without its password. */
  readonly database: string;
  readonly out: string;
  readonly restart: boolean;
}

/** The content of FILE.part.json: the state of an interrupted run. */
interface SavedRun extends FileExport {
  readonly database: string;
}

const CHECKPOINT_MS = 250;

/**
 * Rejects with the signal's reason when it is aborted.
 * @throws CommandError when FILE.part belongs to another command line
 */
export async function exportToFile(
  exports: ExportService,
  options: Options,
  progress: Progress,
  signal: AbortSignal,
): Promise<ExportManifest> {
  const { request, database, out } = options;
  const part = `${out}.part`;
  const state = `${part}.json`;
  const run: SavedRun = (await readSaved(state, options)) ?? {
    request,
    database,
    startedAt: Date.now(),
    scope: await exports.fixScope(request, signal),
    checkpoint: EMPTY_CHECKPOINT,
  };
  const saveRun = (saved: SavedRun) => saveText(state, `${toText(saved)}\n`);
  await saveRun(run);
  progress.begin(run.scope, run.checkpoint);
  const target = {
    checkpointMs: CHECKPOINT_MS,
    open: (bytes: number) =>
      openPart({ part, fresh: `${part}.new`, target: out }, request.compression, bytes),
    onProgress: progress.update,
    saveCheckpoint: (checkpoint: FileExport['checkpoint']) => saveRun({ ...run, checkpoint }),
    saveManifest: (manifest: ExportManifest) => saveManifest(`${out}.manifest.json`, manifest),
  };
  const manifest = await writeExport(exports, run, target, signal);
  progress.update(manifest);
  await rm(state, { force: true });
  return manifest;
}

async function readSaved(
  path: string,
  { out, request, database, restart }: Options,
): Promise<SavedRun | null> {
  if (restart) return null;
  let saved: SavedRun;
  try {
    saved = fromText(await readFile(path, 'utf8'));
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return null;
    if (!(error instanceof SyntaxError)) throw error;
    throw new CommandError(`${path} is not the state of an export: remove it, or start again with --restart`);
  }
  if (toText(saved.request) === toText(request) && saved.database === database) return saved;
  throw new CommandError(
    `${out}.part belongs to another interrupted export: resume that one with its own options, start this one again ` +
      'with --restart, or choose another --out',
  );
}
