/** Export jobs as tests of notifications need them. */
import { v7 } from 'uuid';
import type { ExportJob, ExportManifest, ExportRequest } from '../../src/domain/exports/jobs.ts';

export const AT = Date.UTC(2026, 2, 21, 12, 0, 0, 123);

export const request = (notify: Partial<ExportRequest['notify']> = {}): ExportRequest => ({
  format: 'csv',
  raw: false,
  compression: 'gzip',
  filter: { owner: null, from: null, to: null, role: null, status: null },
  since: null,
  notify: { email: null, webhook: null, ...notify },
});

export const manifest: ExportManifest = {
  format: 'csv',
  csv: 'escaped',
  compression: 'gzip',
  filter: {},
  conversations: 12,
  messages: 34_567,
  deleted: 0,
  bytes: 1_234_567,
  sha256: 'ab'.repeat(32),
  first_message_id: v7(),
  last_message_id: v7(),
  started_at: new Date(AT).toISOString(),
  finished_at: new Date(AT).toISOString(),
  cursor: 'c',
};

export function queuedJob(over: Partial<ExportJob> = {}): ExportJob {
  return {
    id: v7(),
    owner: null,
    status: 'queued',
    request: request(),
    scope: null,
    checkpoint: null,
    manifest: null,
    error: null,
    createdAt: AT,
    startedAt: null,
    finishedAt: null,
    ...over,
  };
}

export function doneJob(over: Partial<ExportJob> = {}): ExportJob {
  return queuedJob({ status: 'done', manifest, startedAt: AT, finishedAt: AT + 1000, ...over });
}
