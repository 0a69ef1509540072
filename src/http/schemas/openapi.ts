/** Pieces of the OpenAPI document that many operations share. */
import type { z } from 'zod';
import type { ZodOpenApiResponsesObject } from 'zod-openapi';
import { problem } from './common.ts';

const MEANING: Readonly<Record<number, string>> = {
  400: 'Validation failed; `errors` names the fields',
  401: 'There is no key, or none that is good',
  403: 'The key may not do that',
  404: 'There is nothing (any more) with this id',
  409: 'There is no file (yet)',
  412: 'The file is not the one that `If-Match` names',
  413: 'The body is too large',
  415: 'The body is not JSON in UTF-8',
  416: 'The range lies beyond the end of the file',
  422: 'The `Idempotency-Key` was used for another body before, or the message has words that are not allowed here',
  429: 'A limit of the caller is reached; `Retry-After` says when to ask again',
  502: 'The model server failed',
  503: 'The model server, the database or this server is busy or away; `Retry-After` says when to ask again',
  504: 'The model server did not answer in time',
};

export function jsonBody(schema: z.ZodType) {
  return { content: { 'application/json': { schema } } };
}

export function problems(
  ...statuses: (keyof typeof MEANING &
    (400 | 401 | 403 | 404 | 409 | 412 | 413 | 415 | 416 | 422 | 429 | 502 | 503 | 504))[]
): ZodOpenApiResponsesObject {
  const entries = statuses.map((status) => [
    String(status),
    { description: MEANING[status] ?? '', content: { 'application/problem+json': { schema: problem } } },
  ]);
  return Object.fromEntries(entries);
}
