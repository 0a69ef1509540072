/** Writes an export to a file, for export jobs and for the command line. */

import type { Instant } from '../../domain/conversations/conversation.ts';
import type {
  ExportCheckpoint,
  ExportFileWriter,
  ExportManifest,
  ExportRequest,
  JobScope,
} from '../../domain/exports/jobs.ts';
import type { ExportService } from './exports.ts';

export interface FileExport {
  readonly request: ExportRequest;
  readonly scope: JobScope;
  readonly startedAt: Instant;
  /** Where an interrupted run resumes. */
  readonly checkpoint: ExportCheckpoint;
}

export interface ExportTargetFile {
  /** Keeps the first `bytes` of an earlier run; null when they are not there. */
  open(bytes: number): Promise<ExportFileWriter | null>;
  /** Called after each piece, and while the file is compressed. */
  onProgress(progress: ExportCheckpoint): void;
  /** Stores a checkpoint whose bytes are on the disk. A rejection ends the export. */
  saveCheckpoint(checkpoint: ExportCheckpoint): Promise<void>;
  saveManifest(manifest: ExportManifest): Promise<void>;
  /** A crash repeats this much work, and one page. */
  readonly checkpointMs: number;
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

/**
 * Writes the file from the checkpoint on, and its manifest.
 * Rejects with the signal's reason, `database_unavailable`, or the error of the file system.
 */
export async function writeExport(
  exports: ExportService,
  source: FileExport,
  target: ExportTargetFile,
  signal: AbortSignal,
): Promise<ExportManifest> {
  const { file, checkpoint } = await openTarget(target, source.checkpoint);
  try {
    const whole = await writeText(exports, { ...source, checkpoint }, file, target, signal);
    const { bytes, sha256 } = await file.finish(signal, () => target.onProgress(whole));
    const manifest = await exports.manifest(source, { ...whole, bytes }, sha256);
    await target.saveManifest(manifest);
    return manifest;
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    await file.close();
  }
}

async function openTarget(target: ExportTargetFile, checkpoint: ExportCheckpoint) {
  const resumed = await target.open(checkpoint.bytes);
  if (resumed) return { file: resumed, checkpoint };
  // Before the new file grows: the old checkpoint does not describe its bytes.
  await target.saveCheckpoint(EMPTY_CHECKPOINT);
  const file = await target.open(0);
  if (!file) throw new Error('the export file cannot be opened');
  return { file, checkpoint: EMPTY_CHECKPOINT };
}

/** @returns the counts of the whole file */
async function writeText(
  exports: ExportService,
  { request, scope, checkpoint }: FileExport,
  file: ExportFileWriter,
  target: ExportTargetFile,
  signal: AbortSignal,
): Promise<ExportCheckpoint> {
  let progress = checkpoint;
  let savedAt = performance.now();
  for await (const piece of exports.fileText(request, scope, checkpoint)) {
    signal.throwIfAborted();
    if (piece.text !== '') await file.write(piece.text);
    progress = { ...piece.state, bytes: file.bytes };
    target.onProgress(progress);
    if (!piece.resumable || performance.now() - savedAt < target.checkpointMs) continue;
    await target.saveCheckpoint({ ...progress, bytes: await file.sync() });
    savedAt = performance.now();
  }
  return progress;
}
