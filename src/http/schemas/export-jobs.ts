import { z } from 'zod';
import type { JobListCursor } from '../../domain/export-jobs.ts';
import { cursor, instant, limit, uuid } from './common.ts';
import { exportBounds, exportFormat, exportMessages } from './exports.ts';

const status = z.enum(['queued', 'running', 'done', 'failed', 'cancelled']).meta({ id: 'ExportStatus' });

const compression = z.enum(['none', 'gzip', 'zstd'], 'must be none, gzip or zstd');

export const exportRequest = z
  .object({
    format: exportFormat.default('json'),
    ...exportBounds,
    ...exportMessages,
    csv: z
      .literal('raw', 'must be raw, or not be there')
      .optional()
      .meta({ description: '`raw`: CSV without byte order mark and formula escaping' }),
    compression: compression.default('none'),
    since: z.string().max(200).optional().meta({
      description:
        'The `cursor` of an earlier manifest: only what came, changed or was deleted after it; not for CSV',
    }),
    notify: z
      .object({
        email: z.email('must be an e-mail address').max(254).optional(),
        webhook: z
          .url({ protocol: /^https?$/, error: 'must be an http:// or https:// URL' })
          .max(2000)
          .optional(),
      })
      .optional()
      .meta({ description: 'Who is told when the job has ended' }),
  })
  .refine(
    ({ start_date: start, end_date: end }) => start === undefined || end === undefined || start <= end,
    {
      path: ['end_date'],
      message: 'must not be before start_date',
    },
  )
  .refine(({ since, format }) => since === undefined || format !== 'csv', {
    path: ['since'],
    message: 'is not possible with csv, which cannot say that a conversation was deleted',
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
    message_status: z
      .string()
      .nullable()
      .meta({ description: 'The `status` that messages were filtered by' }),
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
  .object({ exports: z.array(exportJob), has_more: z.boolean(), next_cursor: z.string().nullable() })
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
    cursor: z.string().meta({ description: 'For `since` of the next export' }),
    pii_masked: z
      .literal(true)
      .optional()
      .meta({ description: 'There where personal data was masked (`PII_MASK`)' }),
  })
  .meta({ id: 'ExportManifest' });

export const exportDeleted = z
  .object({ id: uuid, deleted: z.boolean(), status: z.enum(['cancelled', 'removed']) })
  .meta({ id: 'ExportDeleted' });

const encode = (text: string) => Buffer.from(text, 'latin1').toString('base64url');
const decode = (text: string) => Buffer.from(text, 'base64url').toString('latin1');

export const jobCursor = {
  encode: (at: JobListCursor) => encode(`e${at.createdAt}.${at.id}`),
  decode: (text: string): JobListCursor | undefined => {
    const match = /^e(\d{1,15})\.([\da-f-]{36})$/.exec(decode(text));
    return match ? { createdAt: Number(match[1]), id: String(match[2]) } : undefined;
  },
};

export const exportId = z.object({ id: uuid });
export const jobListQuery = z.object({ limit: limit(100), cursor: cursor(jobCursor.decode) });

/** A week: long enough for a mail that waits over a weekend. */
const LINK_MAX_SECONDS = 7 * 86_400;

export const linkRequest = z
  .object({
    expires_in: z
      .int('must be a whole number of seconds')
      .min(1, 'must be at least 1')
      .max(LINK_MAX_SECONDS, `must be at most ${LINK_MAX_SECONDS}, a week`)
      .default(3600)
      .meta({ description: 'Seconds' }),
  })
  .meta({ id: 'ExportLinkRequest' });

export const exportLink = z
  .object({
    url: z.string().meta({ description: 'Path and query; good for GET and HEAD, with Range, without a key' }),
    expires_at: instant,
  })
  .meta({ id: 'ExportLink' });
