import { z } from 'zod';
import { messageStatus, uuid } from './common.ts';

export const streamId = z.object({ id: uuid });

const position = z.string().optional().meta({
  description: 'The `id` of the last event received',
  example: '0198c0de-7a11-7000-8000-5eed00000001:57',
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
      example: 'order-4711-question-1',
    }),
});

export const stopped = z
  .object({
    stream_id: uuid,
    conversation_id: uuid,
    stopped: z.boolean().meta({ description: 'Whether this call ended the reply' }),
    status: messageStatus,
  })
  .meta({ id: 'StopReport' });
