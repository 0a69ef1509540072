/** Export jobs → wire types. */
import type { Instant } from '../../domain/conversations/conversation.ts';
import type { ExportJob } from '../../domain/exports/jobs.ts';
import { isoTime } from '../../domain/time.ts';
import { type JobList, progressOf } from '../../services/exports/jobs.ts';
import { type ExportJobBody, jobCursor } from '../schemas/export-jobs.ts';

export function presentJob(job: ExportJob, now: Instant): ExportJobBody {
  const { request, manifest } = job;
  const progress = progressOf(job, now);
  const { from, to, role, status, rating } = request.filter;
  return {
    id: job.id,
    status: job.status,
    format: request.format,
    start_date: isoTime(from),
    end_date: isoTime(to),
    role,
    message_status: status,
    ...(rating && { rating }),
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
    created_at: isoTime(job.createdAt),
    finished_at: isoTime(job.finishedAt),
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
    exports: jobs.map((job) => presentJob(job, now)),
    has_more: next !== null,
    next_cursor: next && jobCursor.encode(next),
  };
}
