/** The lines of an import: conversations as NDJSON exports have them. */
import { z } from 'zod';
import { STATUSES } from '../../domain/conversations/conversation.ts';
import { endUser, metadata, modelName } from './chat.ts';
import { cleanText, finishReason, refusal, toolCalls, usage, uuid } from './common.ts';
import { contentPart, feedback, role, title } from './conversations.ts';
import { parameterChanges } from './parameters.ts';

/** What the columns hold; no limit of this server's settings, which may have been others when it was exported. */
const MAX_TEXT = 4_000_000;
const MAX_MODEL = 255;

const FIRST = Date.UTC(1000, 0, 1);

const text = z
  .string('must be text')
  .refine((value) => value.isWellFormed(), 'must not contain a lone surrogate');

const instant = z.iso
  .datetime({ offset: true, error: 'must be an RFC 3339 time with a zone' })
  .transform((value) => Date.parse(value))
  .refine((value) => value >= FIRST, 'must not be before the year 1000');

/** Members that are null count as left out. */
const optional = <T extends z.ZodType>(schema: T) => schema.nullish().transform((value) => value ?? null);

/** Without members that are undefined. */
const tokens = usage.transform(({ cached_tokens, reasoning_tokens, ...counts }) => ({
  ...counts,
  ...(cached_tokens !== undefined && { cached_tokens }),
  ...(reasoning_tokens !== undefined && { reasoning_tokens }),
}));

export const importedMessage = z.object(
  {
    id: uuid,
    role,
    content: text,
    timestamp: instant,
    status: z.enum(STATUSES, 'is not a status of a message').default('complete'),
    reply_to: uuid.optional(),
    model: optional(text.max(MAX_MODEL, `must be at most ${MAX_MODEL} characters long`)),
    finish_reason: optional(finishReason),
    usage: optional(tokens),
    reasoning: optional(text),
    parts: z.array(contentPart).optional(),
    tool_calls: toolCalls.optional(),
    tool_call_id: text.optional(),
    refusal,
    feedback: optional(feedback),
  },
  'must be an object',
);

const head = {
  conversation_id: uuid,
  created_at: instant,
  last_active: instant,
  title: optional(title),
  pinned: z.boolean('must be true or false').default(false),
  user: optional(endUser),
  metadata: optional(metadata),
  system: optional(
    cleanText(z.string('must be text').max(MAX_TEXT, `must be at most ${MAX_TEXT} characters long`)),
  ),
  model: optional(modelName),
  parameters: optional(parameterChanges(true)),
};

export const importedHead = z.object(head, 'must be an object');

const whole = z.int().min(0);

export const importCounts = z
  .object({
    imported: whole.meta({ description: 'Conversations that are new' }),
    replaced: whole,
    skipped: whole.meta({ description: 'Conversations that exist' }),
    failed: whole.meta({ description: 'Lines that cannot be imported' }),
    expired: whole.meta({ description: 'Of the imported ones, those that are past their retention already' }),
    messages: whole.meta({ description: 'Of the imported and replaced conversations' }),
    errors: z
      .array(z.object({ line: z.int(), message: z.string() }))
      .meta({ description: 'Of the first 100 failed lines' }),
  })
  .meta({ id: 'ImportCounts' });

const flag = z
  .enum(['true', 'false'], 'must be true or false')
  .optional()
  .transform((value) => value === 'true');

const BOOLEAN = { type: 'boolean', default: false } as const;

export const importQuery = z.object({
  replace: flag.meta({
    override: BOOLEAN,
    description: 'Replace conversations that exist; they keep their owner. They are skipped otherwise',
  }),
  pin: flag.meta({ override: BOOLEAN, description: 'Pin the conversations, so that they do not expire' }),
});
