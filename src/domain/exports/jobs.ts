import type { Access } from '../access/access.ts';
import type { Instant } from '../conversations/conversation.ts';
import type { ExportCursor, ExportFilter, ExportPosition, ExportScope } from './exports.ts';

export type ExportFormat = 'json' | 'csv' | 'ndjson';

export type Compression = 'none' | 'gzip' | 'zstd';

export interface ExportRequest {
  readonly format: ExportFormat;
  /** CSV without byte order mark and formula escaping. */
  readonly raw: boolean;
  /** NDJSON with a last line that holds the counts. */
  readonly summary?: boolean | undefined;
  readonly compression: Compression;
  readonly filter: ExportFilter;
  readonly since: ExportCursor | null;
  readonly notify: { readonly email: string | null; readonly webhook: string | null };
}

export type JobStatus = 'queued' | 'running' | 'done' | 'failed' | 'cancelled';

/** The progress from which another process can resume the job. */
export interface ExportCheckpoint {
  readonly position: ExportPosition | null;
  readonly conversations: number;
  readonly messages: number;
  readonly deleted: number;
  /** Bytes of text before compression; later ones are written again. */
  readonly bytes: number;
  readonly firstMessageId: string | null;
  readonly lastMessageId: string | null;
}

/** Fixed when a job starts. */
export interface JobScope {
  readonly scope: ExportScope;
  readonly exportedAt: Instant;
  /** The counts at that time, for the progress. */
  readonly conversations: number;
  readonly messages: number;
  /** Masks personal data in the whole file, also if another process resumes it. */
  readonly masked?: boolean;
}

/** Describes a complete file. Times are RFC 3339. */
export interface ExportManifest {
  readonly format: ExportFormat;
  readonly csv: 'raw' | 'escaped' | null;
  readonly compression: Compression;
  readonly filter: Readonly<Record<string, string | null>>;
  readonly conversations: number;
  readonly messages: number;
  readonly deleted: number;
  readonly bytes: number;
  readonly sha256: string;
  readonly first_message_id: string | null;
  readonly last_message_id: string | null;
  readonly started_at: string;
  readonly finished_at: string;
  readonly cursor: string;
  /** Only if personal data is masked. */
  readonly pii_masked?: true | undefined;
}

export interface ExportJob {
  readonly id: string;
  /** The owner of the exported conversations and of the job; null means all owners. */
  readonly owner: string | null;
  readonly status: JobStatus;
  readonly request: ExportRequest;
  readonly scope: JobScope | null;
  readonly checkpoint: ExportCheckpoint | null;
  readonly manifest: ExportManifest | null;
  readonly error: string | null;
  readonly createdAt: Instant;
  readonly startedAt: Instant | null;
  readonly finishedAt: Instant | null;
}

export type NotifyChannel = keyof ExportRequest['notify'];

/** A pending notification about a job that has ended. */
export interface JobNotification {
  readonly job: ExportJob;
  /** The channels without a successful delivery. */
  readonly left: readonly NotifyChannel[];
  /** Starts at 1. */
  readonly attempt: number;
}

/** The last job of a page, newest first. */
export interface JobListCursor {
  readonly createdAt: Instant;
  readonly id: string;
}

/** Rejects with AppError `database_unavailable`. */
export interface ExportJobStore {
  add(job: ExportJob): Promise<void>;
  find(id: string): Promise<ExportJob | null>;
  /** Those that exist, in any order. */
  findAll(ids: readonly string[]): Promise<ExportJob[]>;
  list(access: Access, limit: number, before: JobListCursor | null): Promise<ExportJob[]>;
  /** Of all owners. */
  countByStatus(): Promise<Record<JobStatus, number>>;
  /**
   * Claims the oldest job without a worker. Also returns a job that this worker owns but does not list in `known`,
   * because the response to an earlier claim may have been lost.
   */
  claim(worker: string, now: Instant, known: readonly string[]): Promise<ExportJob | null>;
  /** False if the worker no longer owns the job: it was cancelled or claimed by another. */
  saveScope(id: string, worker: string, scope: JobScope): Promise<boolean>;
  saveCheckpoint(id: string, worker: string, checkpoint: ExportCheckpoint): Promise<boolean>;
  finish(id: string, worker: string, manifest: ExportManifest, at: Instant): Promise<boolean>;
  fail(id: string, worker: string, error: string, at: Instant): Promise<boolean>;
  isOwned(id: string, worker: string): Promise<boolean>;
  /** Lets another process claim the job. */
  release(id: string, worker: string): Promise<void>;
  /** Cancels a queued or running job; false if it has ended. */
  cancel(id: string, at: Instant): Promise<boolean>;
  remove(id: string): Promise<void>;
  endedBefore(at: Instant, limit: number): Promise<ExportJob[]>;
  /**
   * Claims a done or failed job with a notification that is due, so that one process sends it. Counts as an attempt.
   * `known` as for {@link claim}.
   */
  claimNotification(worker: string, now: Instant, known: readonly string[]): Promise<JobNotification | null>;
  /**
   * Releases the notification after an attempt.
   * @param left the channels to retry
   * @param nextAt time of the next attempt; null for none
   * @returns false if the worker no longer owns the job
   */
  saveNotification(
    id: string,
    worker: string,
    left: readonly NotifyChannel[],
    nextAt: Instant | null,
  ): Promise<boolean>;
}

/** A file being written. Rejects with the error of the file system. */
export interface ExportFileWriter {
  /** Bytes of text before compression; exact after `sync`. */
  readonly bytes: number;
  write(text: string): Promise<void>;
  /** Flushes to disk, so that the file can be resumed from here. */
  sync(): Promise<number>;
  /** Compresses the file if requested, and renames it. `signal` aborts the compression. */
  finish(
    signal?: AbortSignal,
    onBlock?: () => void,
  ): Promise<{ readonly bytes: number; readonly sha256: string }>;
  close(): Promise<void>;
}

export interface ExportFiles {
  /** Continues after the first `bytes` of an earlier attempt; null if it is shorter. 0 starts a new file. */
  open(id: string, request: ExportRequest, bytes: number): Promise<ExportFileWriter | null>;
  /** The finished file; null if it is not on this host. */
  find(
    id: string,
    request: ExportRequest,
  ): Promise<{ readonly folder: string; readonly name: string } | null>;
  saveManifest(id: string, manifest: ExportManifest): Promise<void>;
  remove(id: string): Promise<void>;
  /** Removes files that belong to no job. */
  sweep(known: (id: string) => Promise<boolean>): Promise<void>;
}
