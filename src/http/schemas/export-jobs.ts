import { z } from 'zod';
import { RATINGS } from '../../domain/conversations/conversation.ts';
import type { JobListCursor } from '../../domain/exports/jobs.ts';
import { cursorFormat, instant, pageQuery, paging, strictObject, uuid } from './common.ts';
import { csvOption, exportFilter, exportFormat, isOrdered, ORDER_RULE, SUMMARY } from './exports.ts';

const status = z.enum(['queued', 'running', 'done', 'failed', 'cancelled']).meta({ id: 'ExportStatus' });

const compression = z.enum(['none', 'gzip', 'zstd'], 'must be none, gzip or zstd');

export const exportRequest = strictObject({
  format: exportFormat.default('json'),
  ...exportFilter,
  csv: csvOption,
  summary: z.boolean('must be true or false').optional().meta({ description: SUMMARY }),
  compression: compression.default('none'),
  since: z.string().max(200).optional().meta({
    description:
      'The `cursor` of an earlier manifest: export only what was added, changed or deleted since; not for CSV',
  }),
  notify: strictObject({
    email: z.email('must be an e-mail address').max(254).optional(),
    webhook: z
      .url({ protocol: /^https?$/, error: 'must be an http:// or https:// URL' })
      .max(2000)
      .optional(),
  })
    .optional()
    .meta({ description: 'Where to send a notification when the job has ended' }),
})
  .refine(isOrdered, ORDER_RULE)
  .refine(({ since, format }) => since === undefined || format !== 'csv', {
    path: ['since'],
    message: 'must not be used with csv, which cannot represent deletions',
  })
  .meta({ id: 'ExportRequest' });

export type ExportRequestBody = z.output<typeof exportRequest>;

export const exportJob = z
  .object({
    id: uuid,
    status,
    format: exportFormat,
    start_date: instant.nullable(),
    end_date: instant.nullable(),
    role: z.string().nullable(),
    message_status: z.string().nullable().meta({ description: 'The `status` filter of the messages' }),
    rating: z.enum(RATINGS).optional(),
    csv: z.literal('raw').nullable(),
    compression,
    incremental: z.boolean(),
    progress: z.object({
      conversations: z.int(),
      messages: z.int(),
      bytes: z.int(),
      percent: z.number().nullable(),
      messages_per_second: z.int().nullable(),
      eta_seconds: z.int().nullable(),
    }),
    created_at: instant,
    finished_at: instant.nullable(),
    file: z.object({ bytes: z.int(), sha256: z.string(), url: z.string() }).nullable(),
    error: z.string().nullable(),
  })
  .meta({ id: 'ExportJob' });

export type ExportJobBody = z.input<typeof exportJob>;

export const exportJobList = z
  .object({ exports: z.array(exportJob), ...paging })
  .meta({ id: 'ExportJobList' });

export const exportManifest = z
  .object({
    format: exportFormat,
    csv: z.enum(['raw', 'escaped']).nullable(),
    compression,
    filter: z.record(z.string(), z.string().nullable()),
    conversations: z.int(),
    messages: z.int(),
    deleted: z.int(),
    bytes: z.int(),
    sha256: z.string(),
    first_message_id: uuid.nullable(),
    last_message_id: uuid.nullable(),
    started_at: instant,
    finished_at: instant,
    cursor: z.string().meta({ description: 'The `since` of the next incremental export' }),
    pii_masked: z
      .literal(true)
      .optional()
      .meta({ description: 'Present when personal data was masked (`PII_MASK`)' }),
  })
  .meta({ id: 'ExportManifest' });

export const exportDeleted = z
  .object({ id: uuid, deleted: z.boolean(), status: z.enum(['cancelled', 'removed']) })
  .meta({ id: 'ExportDeleted' });

export const jobCursor = cursorFormat<JobListCursor>(
  ({ createdAt, id }) => `e${createdAt}.${id}`,
  /^e(\d{1,15})\.([\da-f-]{36})$/,
  (createdAt, id) => ({ createdAt: Number(createdAt), id }),
);

export const jobListQuery = pageQuery(jobCursor);

/** A week, so that a link in a mail survives a weekend. */
const LINK_MAX_SECONDS = 7 * 86_400;

export const linkRequest = strictObject({
  expires_in: z
    .int('must be a whole number of seconds')
    .min(1, 'must be at least 1')
    .max(LINK_MAX_SECONDS, `must be at most ${LINK_MAX_SECONDS}, a week`)
    .default(3600)
    .meta({ description: 'Lifetime in seconds' }),
}).meta({ id: 'ExportLinkRequest' });

export const exportLink = z
  .object({
    url: z.string().meta({ description: 'Path and query, valid for GET and HEAD without a key' }),
    expires_at: instant,
  })
  .meta({ id: 'ExportLink' });
