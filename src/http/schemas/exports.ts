import { z } from 'zod';
import { RATINGS, STATUSES } from '../../domain/conversations/conversation.ts';
import { COUNT_SCHEMA, count, instant, uuid } from './common.ts';
import { exportedConversation, role } from './conversations.ts';

const TIME =
  /^(\d{4}-\d\d-\d\d)(?:[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?(?:[Zz]|([+ -])((?:[01]\d|2[0-3]):[0-5]\d)))?$/;
const DAY_MS = 86_400_000;
const FIRST = Date.parse('0000-01-01T00:00:00.000Z');
const LAST = Date.parse('9999-12-31T23:59:59.999Z');

/**
 * A UTC day or an instant with a zone → epoch milliseconds; undefined when `text` is neither.
 * @param end a day then means its last millisecond, and fractions of a millisecond are rounded down instead of up
 */
function readBound(text: string, end: boolean): number | undefined {
  const match = TIME.exec(text);
  const day = match?.[1];
  if (!match || day === undefined) return undefined;
  const midnight = Date.parse(`${day}T00:00:00.000Z`);
  // Date.parse takes 30 February for a day in March.
  if (Number.isNaN(midnight) || new Date(midnight).toISOString().slice(0, 10) !== day) return undefined;
  const [, , hours, minutes, seconds, fraction = '', sign, zone] = match;
  if (hours === undefined) return end ? midnight + DAY_MS - 1 : midnight;
  const time = `${hours}:${minutes}:${seconds}.${fraction.slice(0, 3).padEnd(3, '0')}`;
  const finer = !end && /[1-9]/.test(fraction.slice(3)) ? 1 : 0;
  // An unescaped plus sign arrives as a space.
  const offset = zone === undefined ? 'Z' : `${sign === '-' ? '-' : '+'}${zone}`;
  const value = Date.parse(`${day}T${time}${offset}`) + finer;
  // The zone can move the instant out of the years 0 to 9999.
  return value >= FIRST && value <= LAST ? value : undefined;
}

function bound(end: boolean) {
  return z
    .string()
    .transform((text, context): number => {
      const value = readBound(text, end);
      if (value !== undefined) return value;
      context.addIssue({
        code: 'custom',
        message: 'must be a day such as 2026-03-21, or an instant with a zone such as 2026-03-21T08:30:00Z',
      });
      return z.NEVER;
    })
    .optional()
    .meta({
      override: { type: 'string' },
      description: `${end ? 'Last' : 'First'} \`created_at\`, inclusive: a UTC day or an RFC 3339 instant with a zone`,
    });
}

export const exportFormat = z.enum(['json', 'csv', 'ndjson'], 'must be json, csv or ndjson');

export const SUMMARY =
  '`true`: NDJSON ends with a line `{"summary":{"conversations","messages"}}`; ignored by other formats';

export const csvOption = z
  .literal('raw', 'must be "raw" or omitted')
  .optional()
  .meta({ description: '`raw`: CSV without byte order mark and formula escaping' });

interface Bounds {
  readonly start_date?: number | undefined;
  readonly end_date?: number | undefined;
}

export function isOrdered({ start_date: start, end_date: end }: Bounds): boolean {
  return start === undefined || end === undefined || start <= end;
}

export const ORDER_RULE = { path: ['end_date'], message: 'must not be before start_date' };

const messageFilter = {
  role: role.optional(),
  status: z.enum(STATUSES, 'must be complete, streaming, incomplete, cancelled or superseded').optional(),
};

const rating = z
  .enum(RATINGS, 'must be up or down')
  .optional()
  .meta({ description: 'Only replies with this rating, and their questions' });

/** Selects conversations by `created_at`, and their messages by role, status and rating. */
export const exportFilter = { start_date: bound(false), end_date: bound(true), ...messageFilter, rating };

export const exportQuery = z.object({
  format: exportFormat.default('json'),
  csv: csvOption,
  summary: z.enum(['true', 'false'], 'must be true or false').optional().meta({ description: SUMMARY }),
  preview: count.optional().meta({
    override: COUNT_SCHEMA,
    description: 'Return the first rows and the estimated size instead of the file',
  }),
  ...messageFilter,
});

export const exportAllQuery = exportQuery.extend(exportFilter).refine(isOrdered, ORDER_RULE);

const counts = { conversations: z.int(), messages: z.int() };

export const exportFile = z
  .object({
    metadata: z.object({
      format: z.literal('json'),
      filter: z.record(z.string(), z.string().nullable()),
      exported_at: instant,
    }),
    conversations: z.array(exportedConversation),
    summary: z.object(counts),
  })
  .meta({ id: 'Export' });

const row = z.object({
  conversation_id: uuid,
  created_at: instant,
  last_active: instant,
  message_id: uuid.nullable(),
  role: z.string().nullable(),
  content: z.string().nullable(),
  timestamp: instant.nullable(),
  status: z.string().nullable(),
});

export const exportPreview = z
  .object({ rows: z.array(row), estimate: z.object({ ...counts, bytes: z.int() }) })
  .meta({ id: 'ExportPreview' });
