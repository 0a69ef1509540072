/** Exports to files on this host, and the ports they need. */
import type { Access } from '../access/access.ts';
import type { Instant } from '../conversations/conversation.ts';
import type { ExportCursor, ExportFilter, ExportPosition, ExportScope } from './exports.ts';

export type ExportFormat = 'json' | 'csv' | 'ndjson';

export type Compression = 'none' | 'gzip' | 'zstd';

export interface ExportRequest {
  readonly format: ExportFormat;
  /** CSV without byte order mark and formula escaping. */
  readonly raw: boolean;
  readonly compression: Compression;
  readonly filter: ExportFilter;
  readonly since: ExportCursor | null;
  readonly notify: { readonly email: string | null; readonly webhook: string | null };
}

export type JobStatus = 'queued' | 'running' | 'done' | 'failed' | 'cancelled';

/** What the job has behind itself, so that another process can go on. */
export interface ExportCheckpoint {
  readonly position: ExportPosition | null;
  readonly conversations: number;
  readonly messages: number;
  readonly deleted: number;
  /** Bytes of text, before compression, that belong to it; what is behind them is written again. */
  readonly bytes: number;
  readonly firstMessageId: string | null;
  readonly lastMessageId: string | null;
}

/** What a job fixes when it begins. */
export interface JobScope {
  readonly scope: ExportScope;
  readonly exportedAt: Instant;
  /** How much there was to be exported then. */
  readonly conversations: number;
  readonly messages: number;
  /** What the manifest's cursor will be. */
  readonly cursor: ExportCursor;
  /** Whether personal data is masked, in all of the file, whoever goes on with it. Not there: it is not. */
  readonly masked?: boolean;
}

/** What proves a file complete. Times are RFC 3339. */
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
  /** Only where personal data is masked. */
  readonly pii_masked?: true | undefined;
}

export interface ExportJob {
  readonly id: string;
  /** Whose conversations it exports, and to whom it so is open; null: everybody's. */
  readonly owner: string | null;
  readonly status: JobStatus;
  readonly request: ExportRequest;
  readonly scope: JobScope | null;
  readonly checkpoint: ExportCheckpoint | null;
  readonly manifest: ExportManifest | null;
  /** A sentence for people. */
  readonly error: string | null;
  readonly createdAt: Instant;
  readonly startedAt: Instant | null;
  readonly finishedAt: Instant | null;
}

export type NotifyChannel = keyof ExportRequest['notify'];

/** That a job has ended, for those who asked to be told. */
export interface JobNotification {
  readonly job: ExportJob;
  /** The ways by which nobody was told yet. */
  readonly left: readonly NotifyChannel[];
  /** From 1 on. */
  readonly attempt: number;
}

/** Where a page of jobs (newest first) goes on. */
export interface JobListCursor {
  readonly createdAt: Instant;
  readonly id: string;
}

/** Jobs as rows. Rejects with AppError `database_unavailable`. */
export interface ExportJobStore {
  add(job: ExportJob): Promise<void>;
  find(id: string): Promise<ExportJob | null>;
  list(access: Access, limit: number, before: JobListCursor | null): Promise<ExportJob[]>;
  /**
   * Takes the oldest job that nobody works on; null when there is none. One that the worker has already is taken too,
   * unless it is among those it knows to have: it may not have heard that it got it.
   */
  claim(worker: string, now: Instant, known: readonly string[]): Promise<ExportJob | null>;
  /** False when the job is not this worker's any more: it was cancelled, or given to another. */
  saveScope(id: string, worker: string, scope: JobScope): Promise<boolean>;
  saveCheckpoint(id: string, worker: string, checkpoint: ExportCheckpoint): Promise<boolean>;
  finish(id: string, worker: string, manifest: ExportManifest, at: Instant): Promise<boolean>;
  fail(id: string, worker: string, error: string, at: Instant): Promise<boolean>;
  /** Whether the job runs and is this worker's. */
  isOwned(id: string, worker: string): Promise<boolean>;
  /** Lets another process claim the job. */
  release(id: string, worker: string): Promise<void>;
  /** Ends a queued or running job; false when it had ended. */
  cancel(id: string, at: Instant): Promise<boolean>;
  remove(id: string): Promise<void>;
  /** Jobs that ended before. */
  endedBefore(at: Instant, limit: number): Promise<ExportJob[]>;
  /**
   * Takes a done or failed job of which somebody is to be told by now, so that one process tells; null when there is
   * none. Counts as an attempt. `known` as for {@link claim}.
   */
  claimNotification(worker: string, now: Instant, known: readonly string[]): Promise<JobNotification | null>;
  /**
   * Lets it go after an attempt.
   * @param left who is still to be told
   * @param nextAt when; null: never
   * @returns false when it is not this worker's any more
   */
  saveNotification(
    id: string,
    worker: string,
    left: readonly NotifyChannel[],
    nextAt: Instant | null,
  ): Promise<boolean>;
}

/** One file in the making. Everything rejects with the error of the file system, `code` included. */
export interface ExportFileWriter {
  /** Bytes of text so far, before compression; exact after `sync`. */
  readonly bytes: number;
  write(text: string): Promise<void>;
  /** Everything written is on the disk, and the file could go on from here. */
  sync(): Promise<number>;
  /** Compresses it where that is asked for, which `signal` breaks off; then the file has its name. */
  finish(signal?: AbortSignal): Promise<{ readonly bytes: number; readonly sha256: string }>;
  /** Closes it; what is there stays. */
  close(): Promise<void>;
}

export interface ExportFiles {
  /**
   * Goes on after `bytes` of what an earlier attempt wrote, or begins anew with 0; null when so much is not there.
   */
  open(id: string, request: ExportRequest, bytes: number): Promise<ExportFileWriter | null>;
  /** The finished file; null when it is not on this host. */
  find(
    id: string,
    request: ExportRequest,
  ): Promise<{ readonly folder: string; readonly name: string } | null>;
  saveManifest(id: string, manifest: ExportManifest): Promise<void>;
  /** Whatever there is of it. */
  remove(id: string): Promise<void>;
  /** Removes files that belong to no job, given the ids of all jobs there are. */
  sweep(known: (id: string) => Promise<boolean>): Promise<void>;
}
