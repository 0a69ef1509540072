import { z } from 'zod';
import { queryParameters } from '../request/query.ts';
import {
  boundedNames,
  cleanText,
  finishReason,
  ignored,
  instant,
  replyFormat,
  usage,
  uuid,
} from './common.ts';

/** @param maxChars the longest message, in UTF-16 units */
export function chatRequest(maxChars: number) {
  return z
    .object({
      message: cleanText(z.string().max(maxChars, `must be at most ${maxChars} characters long`))
        .refine((text) => text.trim() !== '', 'must not be blank')
        .meta({ description: 'Used unchanged, not trimmed', example: '你好' }),
      conversation_id: uuid.optional().meta({
        description:
          'The conversation to continue; an unknown or expired id starts a new conversation with this id',
      }),
      format: replyFormat.optional(),
      model: cleanText(z.string().min(1).max(200))
        .optional()
        .meta({ description: 'The model to use; default: OPENAI_MODEL' }),
      cache: z.boolean().optional().meta({ description: '`false` bypasses the response cache' }),
    })
    .meta({ id: 'ChatRequest' });
}

export type ChatRequest = z.output<ReturnType<typeof chatRequest>>;

/**
 * The members of a body and the query parameters, as `?name`, that the server does not use; undefined without any.
 * @throws AppError `validation` for repeated parameters
 */
export function ignoredNames(
  { shape }: ReturnType<typeof chatRequest>,
  body: unknown,
  url: string,
): string[] | undefined {
  const names = Object.keys(Object(body)).filter((name) => !Object.hasOwn(shape, name));
  for (const name of Object.keys(queryParameters(url))) names.push(`?${name}`);
  return names.length === 0 ? undefined : boundedNames(names);
}

export const chatReply = z
  .object({
    response: z.string(),
    conversation_id: uuid,
    message_id: uuid,
    cached: z.boolean(),
    model: z.string(),
    format: replyFormat,
    finish_reason: finishReason,
    usage: usage.nullable(),
    expires_at: instant.nullable().meta({ description: 'null: conversations do not expire' }),
    persisted: z.boolean(),
    ignored,
  })
  .meta({ id: 'ChatReply' });

export type ChatReplyBody = z.input<typeof chatReply>;
