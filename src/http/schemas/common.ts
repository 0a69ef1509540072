import { z } from 'zod';
import { FINISH_REASONS, FORMATS, STATUSES } from '../../domain/conversations/conversation.ts';

const UUID = /^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/i;

/** A UUID of any version, in any case; the output is lower case. */
export const uuid = z
  .string()
  .regex(UUID, 'must be a UUID')
  .transform((text) => text.toLowerCase())
  .meta({ format: 'uuid' });

/** The path parameters of a route with an id. */
export const pathId = z.object({ id: uuid });

export const instant = z.string().meta({
  format: 'date-time',
  description: 'RFC 3339, UTC, with milliseconds',
  example: '2026-03-21T08:30:00.000Z',
});

/** Text that JSON, SSE and the database carry unchanged. */
export function cleanText(field: z.ZodString) {
  return field
    .refine((text) => !text.includes('\0'), 'must not contain the NUL character')
    .refine((text) => text.isWellFormed(), 'must not contain a lone surrogate');
}

const MAX_NAMES = 20;
const MAX_NAME = 64;

/** Names that a caller has made up, for a response: at most 20 of at most 64 characters. */
export function boundedNames(names: readonly string[]): string[] {
  return names.slice(0, MAX_NAMES).map((name) => name.slice(0, MAX_NAME).toWellFormed());
}

export const questionId = uuid
  .nullable()
  .meta({ description: 'The message that it replies to; null where it is not known' });

export const ignored = z
  .array(z.string())
  .optional()
  .meta({
    description:
      'Members of the body that this server does not know, and query parameters (as `?name`), which it does not use; ' +
      'at most 20 names',
  });

/** The error of an unknown member or parameter. */
export function unknownName(known: readonly string[]): string {
  return known.length === 0 ? 'is unknown; none is allowed here' : `is unknown; use ${known.join(', ')}`;
}

/** An object in which a misspelt member is an error, because leaving it out would do something else. */
export function strictObject<T extends z.core.$ZodLooseShape>(shape: T) {
  const message = unknownName(Object.keys(shape));
  return z.strictObject(shape, {
    error: ({ code }) => (code === 'unrecognized_keys' ? message : undefined),
  });
}

const COUNT_RULE = 'must be a whole number from 1 to 1000';

/** A query parameter from 1 to 1000. */
export const count = z
  .string()
  .regex(/^\d{1,4}$/, COUNT_RULE)
  .transform(Number)
  .refine((value) => value >= 1 && value <= 1000, COUNT_RULE);

export const COUNT_SCHEMA = { type: 'integer', minimum: 1, maximum: 1000 } as const;

const limit = count.default(100).meta({ override: { ...COUNT_SCHEMA, default: 100 } });

interface CursorFormat<T> {
  encode(value: T): string;
  decode(text: string): T | undefined;
}

/** Cursors are opaque to callers: base64url of a short text. */
export function cursorFormat<T>(
  write: (value: T) => string,
  pattern: RegExp,
  read: (...groups: string[]) => T,
): CursorFormat<T> {
  return {
    encode: (value) => Buffer.from(write(value), 'latin1').toString('base64url'),
    decode(text) {
      const match = pattern.exec(Buffer.from(text, 'base64url').toString('latin1'));
      return match ? read(...match.slice(1)) : undefined;
    },
  };
}

/** The query of a paged list. */
export function pageQuery<T>({ decode }: CursorFormat<T>) {
  const cursor = z
    .string()
    .transform((text, context): T => {
      const value = decode(text);
      if (value !== undefined) return value;
      context.addIssue({ code: 'custom', message: 'must be the next_cursor of an earlier response' });
      return z.NEVER;
    })
    .optional()
    .meta({ override: { type: 'string' }, description: 'The `next_cursor` of the previous page' });
  return z.object({ limit, cursor });
}

/** The members of a page. */
export const paging = { has_more: z.boolean(), next_cursor: z.string().nullable() };

export const usage = z
  .object({
    prompt_tokens: z.int(),
    completion_tokens: z.int(),
    total_tokens: z.int(),
    cached_tokens: z
      .int()
      .optional()
      .meta({ description: 'Of the prompt, from the cache of the model server' }),
    reasoning_tokens: z.int().optional().meta({ description: 'Of the completion' }),
  })
  .meta({ id: 'Usage', description: 'Tokens, as counted by the model server' });

export const toolCalls = z
  .array(
    z.looseObject({
      id: z.string(),
      type: z.literal('function'),
      function: z.object({
        name: z.string(),
        arguments: z.string().meta({ description: 'JSON, as the model wrote it' }),
      }),
    }),
  )
  .meta({
    id: 'ToolCalls',
    description:
      'The calls that the reply asks for, only with the `finish_reason` `tool_calls`. Members that the model server adds to ' +
      'a call are kept, and sent back to it',
  });

export const refusal = z.literal(true).optional().meta({ description: 'The reply is the model’s refusal' });

export const messageStatus = z.enum(STATUSES).meta({
  id: 'MessageStatus',
  description:
    '`incomplete`: ended by an error or a limit; `cancelled`: stopped by a caller; `superseded`: a later reply or an ' +
    'edited question took its place',
});

export const finishReason = z.enum(FINISH_REASONS).meta({
  id: 'FinishReason',
  description:
    '`length`: a limit of the model or of this server ended the reply; `tool_calls`: the reply asks for calls of tools',
});

export const replyFormat = z.enum(FORMATS).meta({
  id: 'ReplyFormat',
  description: '`markdown`: the text as the model wrote it; `text`: plain text, without Markdown',
});

export const problem = z
  .object({
    type: z.string().meta({ example: '/problems/validation' }),
    title: z.string().meta({ example: 'Validation failed' }),
    status: z.int().min(400).max(599).meta({ example: 400 }),
    detail: z.string().meta({ example: 'message: must not be blank' }),
    instance: z.string().meta({ example: '/api/chat' }),
    request_id: z.string(),
    code: z.string().meta({ example: 'validation' }),
    errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
    error: z.string().meta({ description: 'Same as `detail`' }),
  })
  .meta({ id: 'Problem', description: 'RFC 9457 problem document' });
