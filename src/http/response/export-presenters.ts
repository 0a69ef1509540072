/** Export jobs → wire. */
import type { Instant } from '../../domain/conversation.ts';
import type { Compression, ExportFormat, ExportJob } from '../../domain/export-jobs.ts';
import { type JobList, type JobProgress, progressOf } from '../../services/exports/jobs.ts';
import { type ExportJobBody, jobCursor } from '../schemas/export-jobs.ts';

function time(at: Instant | null): string | null {
  return at === null ? null : new Date(at).toISOString();
}

export function presentJob(job: ExportJob, progress: JobProgress): ExportJobBody {
  const { request, manifest } = job;
  const { from, to, role, status } = request.filter;
  return {
    id: job.id,
    status: job.status,
    format: request.format,
    start_date: time(from),
    end_date: time(to),
    role,
    message_status: status,
    csv: request.raw ? 'raw' : null,
    compression: request.compression,
    incremental: request.since !== null,
    progress: {
      conversations: progress.conversations,
      messages: progress.messages,
      bytes: progress.bytes,
      percent: progress.percent,
      messages_per_second: progress.messagesPerSecond,
      eta_seconds: progress.etaSeconds,
    },
    created_at: new Date(job.createdAt).toISOString(),
    finished_at: time(job.finishedAt),
    file: manifest && {
      bytes: manifest.bytes,
      sha256: manifest.sha256,
      url: `/api/exports/${job.id}/file`,
    },
    error: job.error,
  };
}

export function presentJobList({ jobs, next }: JobList, now: Instant) {
  return {
    exports: jobs.map((job) => presentJob(job, progressOf(job, now))),
    has_more: next !== null,
    next_cursor: next === null ? null : jobCursor.encode(next),
  };
}

const TYPES = {
  json: 'application/json',
  csv: 'text/csv; charset=utf-8',
  ndjson: 'application/x-ndjson',
} as const;
const PACKED = { none: null, gzip: 'application/gzip', zstd: 'application/zstd' } as const;

/** What a file is, for `Content-Type`. */
export function mediaTypeOf(format: ExportFormat, compression: Compression = 'none'): string {
  return PACKED[compression] ?? TYPES[format];
}
