/** Parts of the OpenAPI document that operations share. */
import type { z } from 'zod';
import type { ZodOpenApiResponsesObject } from 'zod-openapi';
import { problem } from './common.ts';

const DESCRIPTIONS = {
  400: 'Validation failed; `errors` names the fields',
  401: 'No valid API key',
  403: 'The key lacks the required scope',
  404: 'The id is unknown, deleted or expired',
  409: 'The export has no file yet, or has failed',
  412: 'The ETag of the file does not match `If-Match`',
  413: 'The body is too large',
  415: 'The body is not JSON in UTF-8',
  416: 'The range begins after the end of the file',
  422: 'The `Idempotency-Key` was used with another body, or the content filter blocks the message',
  429: 'Rate limit exceeded; retry after `Retry-After`',
  502: 'The model server failed',
  503: 'The model server, the database or this server is busy or unavailable; retry after `Retry-After`',
  504: 'The model server did not respond in time',
} as const;

/** @param example what "Try it out" sends; without it, Swagger UI makes one up from the schema */
export function jsonBody(schema: z.ZodType, example?: object) {
  return { content: { 'application/json': { schema, ...(example && { example }) } } };
}

/** @param data the objects of the `data:` lines */
export function eventStream(data: z.ZodType) {
  return { content: { 'text/event-stream': { schema: data } } };
}

/** The ids of a stream. */
export const STREAM_HEADERS = {
  'X-Conversation-Id': {
    description: 'The conversation of the turn; continue it with `conversation_id`',
    schema: { type: 'string', format: 'uuid' },
  },
  'X-Stream-Id': {
    description: 'Resume or stop the reply at `/api/chat-stream/{id}`',
    schema: { type: 'string', format: 'uuid' },
  },
} as const;

export const UPSTREAM_HEADER = {
  'X-Upstream': {
    description: 'Which model server replies, where there are two and it is known by then',
    schema: { type: 'string', enum: ['primary', 'fallback'] },
  },
} as const;

export function problemResponse(description: string) {
  return { description, content: { 'application/problem+json': { schema: problem } } };
}

export function problems(...statuses: (keyof typeof DESCRIPTIONS)[]): ZodOpenApiResponsesObject {
  return Object.fromEntries(
    statuses.map((status) => [String(status), problemResponse(DESCRIPTIONS[status])]),
  );
}
