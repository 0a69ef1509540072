import { z } from 'zod';
import { instant, uuid } from './common.ts';
import { conversation } from './conversations.ts';

const TIME =
  /^(\d{4}-\d\d-\d\d)(?:[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?(?:[Zz]|([+ -])((?:[01]\d|2[0-3]):[0-5]\d)))?$/;
const DAY_MS = 86_400_000;
const FIRST = Date.parse('0000-01-01T00:00:00.000Z');
const LAST = Date.parse('9999-12-31T23:59:59.999Z');

/**
 * A day of UTC or an instant with its zone → epoch milliseconds; undefined for what is neither.
 * @param end a day then means its last millisecond, and what is finer than a millisecond is cut off, not rounded up
 */
export function readBound(text: string, end: boolean): number | undefined {
  const match = TIME.exec(text);
  const day = match?.[1];
  if (!match || day === undefined) return undefined;
  const midnight = Date.parse(`${day}T00:00:00.000Z`);
  // 30 February would be taken for a day of March.
  if (Number.isNaN(midnight) || new Date(midnight).toISOString().slice(0, 10) !== day) return undefined;
  const [, , hours, minutes, seconds, fraction = '', sign, zone] = match;
  if (hours === undefined) return end ? midnight + DAY_MS - 1 : midnight;
  const time = `${hours}:${minutes}:${seconds}.${fraction.slice(0, 3).padEnd(3, '0')}`;
  const finer = !end && /[1-9]/.test(fraction.slice(3)) ? 1 : 0;
  // A plus sign that nobody escaped arrives as a space.
  const offset = zone === undefined ? 'Z' : `${sign === '-' ? '-' : '+'}${zone}`;
  const value = Date.parse(`${day}T${time}${offset}`) + finer;
  // The zone may move it out of the years that can be written.
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
        message: 'must be a day such as 2026-03-21, or an instant with its zone such as 2026-03-21T08:30:00Z',
      });
      return z.NEVER;
    })
    .optional()
    .meta({
      override: { type: 'string' },
      description: `${end ? 'The last' : 'The first'} \`created_at\` that is in: a day (UTC, whole) or an RFC 3339 instant with zone`,
    });
}

export const exportFormat = z.enum(['json', 'csv', 'ndjson'], 'must be json, csv or ndjson');

/** Which conversations: the first and the last `created_at`. */
export const exportBounds = { start_date: bound(false), end_date: bound(true) };

/** Which of their messages. */
export const exportMessages = {
  role: z.enum(['user', 'assistant'], 'must be user or assistant').optional(),
  status: z
    .enum(
      ['complete', 'streaming', 'incomplete', 'cancelled'],
      'must be complete, streaming, incomplete or cancelled',
    )
    .optional(),
};

const form = {
  format: exportFormat.default('json'),
  csv: z
    .literal('raw', 'must be raw, or not be there')
    .optional()
    .meta({ description: '`raw`: CSV without byte order mark and formula escaping' }),
  preview: z
    .string()
    .regex(/^\d{1,4}$/, 'must be a whole number from 1 to 1000')
    .transform(Number)
    .refine((value) => value >= 1 && value <= 1000, 'must be a whole number from 1 to 1000')
    .optional()
    .meta({
      override: { type: 'integer', minimum: 1, maximum: 1000 },
      description: 'Instead of the file: its first rows and how much it would be',
    }),
};

export const exportQuery = z.object(form);

export const exportAllQuery = z
  .object({
    ...form,
    ...exportBounds,
    ...exportMessages,
  })
  .refine(
    ({ start_date: start, end_date: end }) => start === undefined || end === undefined || start <= end,
    {
      path: ['end_date'],
      message: 'must not be before start_date',
    },
  );

const counts = { conversations: z.int(), messages: z.int() };

export const exportFile = z
  .object({
    metadata: z.object({
      format: z.literal('json'),
      filter: z.record(z.string(), z.string().nullable()),
      exported_at: instant,
    }),
    conversations: z.array(conversation.omit({ has_more: true, next_cursor: true })),
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
