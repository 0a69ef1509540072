import { z } from 'zod';
import {
  finishReason,
  ignored,
  messageStatus,
  problem,
  questionId,
  refusal,
  replyFormat,
  toolCalls,
  usage,
  uuid,
} from './common.ts';

const position = z.string().optional().meta({
  description: 'The `id` of the last event received: the id of the stream, a colon, and a number',
});

export const streamQuery = z.object({ last_event_id: position });

/** For the OpenAPI document only: the route reads the header itself. */
export const lastEventHeader = z.object({ 'Last-Event-ID': position });

export const idempotencyHeader = z.object({
  'Idempotency-Key': z
    .string()
    .optional()
    .meta({
      description:
        '1 to 255 visible ASCII characters, bare or quoted. A repeated request with the same key and body gets the ' +
        'same turn: the stored reply, or the one in progress.',
    }),
});

const content = z.string().meta({ description: 'Joined, the `content` of all events is the reply' });
const length = z.int().meta({ description: 'UTF-16 code units of the whole output' });

/** The objects of the `data:` lines of a reply. */
export const replyEvents = z
  .union([
    z
      .object({
        content: z.literal(''),
        conversation_id: uuid,
        stream_id: uuid,
        message_id: uuid,
        question_id: questionId,
        model: z.string(),
        format: replyFormat,
        cached: z.boolean(),
        offset: z.int().optional().meta({ description: 'Where a resumed stream continues' }),
        ignored,
      })
      .meta({ id: 'StreamStart', description: '`event: start`' }),
    z
      .object({
        content: z.literal(''),
        finish_reason: finishReason,
        tool_calls: toolCalls.optional(),
        refusal,
        usage: usage.nullable(),
        persisted: z.boolean(),
        length,
        upstream: z
          .enum(['primary', 'fallback'])
          .optional()
          .meta({ description: 'Which model server replied, where there are two' }),
      })
      .meta({ id: 'StreamDone', description: '`event: done`, the last event of a reply that has ended' }),
    problem
      .extend({
        content: z.literal(''),
        finish_reason: z.literal('error'),
        length: length.optional(),
        resume: z.string().optional().meta({ description: 'Where to resume after a restart' }),
      })
      .meta({ id: 'StreamError', description: '`event: error`, the last event of a reply that has failed' }),
    z.strictObject({ content: z.literal(''), reasoning: z.string() }).meta({
      id: 'StreamReasoning',
      description:
        '`event: reasoning`, without an id: joined, the `reasoning` of these events is the reasoning',
    }),
    z.strictObject({ content }).meta({ id: 'StreamContent', description: 'An event without a name: text' }),
  ])
  .meta({ description: 'The `data:` of each event is one of these objects' });

export const stopped = z
  .object({
    stream_id: uuid,
    conversation_id: uuid,
    stopped: z.boolean().meta({ description: 'Whether this call ended the reply' }),
    status: messageStatus,
  })
  .meta({ id: 'StopReport' });
