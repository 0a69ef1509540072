import { z } from 'zod';

const UUID = /^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/i;

/** Any version of UUID in any case; lower case from here on. */
export const uuid = z
  .string()
  .regex(UUID, 'must be a UUID')
  .transform((text) => text.toLowerCase())
  .meta({ example: '0198c0de-7a11-7000-8000-5eed00000001', format: 'uuid' });

export const instant = z.string().meta({
  format: 'date-time',
  description: 'RFC 3339, UTC, with milliseconds',
  example: '2026-03-21T08:30:00.000Z',
});

/** Text that survives JSON, SSE and the database unchanged. */
export function cleanText(field: z.ZodString) {
  return field
    .refine((text) => !text.includes('\0'), 'must not contain the NUL character')
    .refine((text) => text.isWellFormed(), 'must not contain a lone surrogate');
}

export const limit = (fallback: number) =>
  z
    .string()
    .regex(/^\d{1,4}$/, 'must be a whole number from 1 to 1000')
    .transform(Number)
    .refine((value) => value >= 1 && value <= 1000, 'must be a whole number from 1 to 1000')
    .default(fallback)
    .meta({ override: { type: 'integer', minimum: 1, maximum: 1000, default: fallback } });

/** A cursor that `decode` understands; what it means is nobody's business but ours. */
export function cursor<T>(decode: (text: string) => T | undefined) {
  return z
    .string()
    .transform((text, context): T => {
      const value = decode(text);
      if (value !== undefined) return value;
      context.addIssue({ code: 'custom', message: 'must be a next_cursor of an earlier answer' });
      return z.NEVER;
    })
    .optional()
    .meta({ override: { type: 'string' }, description: 'The next_cursor of the page before' });
}

export const usage = z
  .object({
    prompt_tokens: z.int(),
    completion_tokens: z.int(),
    total_tokens: z.int(),
  })
  .meta({ id: 'Usage', description: 'Tokens as the model server counted them' });

export const messageStatus = z.enum(['complete', 'streaming', 'incomplete', 'cancelled']).meta({
  id: 'MessageStatus',
  description: '`incomplete`: broken off by a fault or a limit; `cancelled`: stopped by a caller',
});

export const finishReason = z.enum(['stop', 'length', 'content_filter', 'cancelled', 'error']).meta({
  id: 'FinishReason',
  description: '`length`: a limit of the model or of this server ended the reply',
});

export const replyFormat = z.enum(['markdown', 'text']).meta({
  id: 'ReplyFormat',
  description: '`markdown`: the text as the model wrote it; `text`: without Markdown marks',
});

export const problem = z
  .object({
    type: z.string().meta({ example: '/problems/validation' }),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    instance: z.string(),
    request_id: z.string(),
    code: z.string().meta({ example: 'validation' }),
    errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
    error: z.string().meta({ description: 'The same sentence as `detail`' }),
  })
  .meta({ id: 'Problem', description: 'RFC 9457 problem document' });
