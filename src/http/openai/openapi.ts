import type { ZodOpenApiResponsesObject } from 'zod-openapi';
import { problems } from '../schemas/openapi.ts';
import { openAiError } from './schemas.ts';

/** The responses of `problems()`, with OpenAI's error as their body. */
export function openAiErrors(...statuses: Parameters<typeof problems>): ZodOpenApiResponsesObject {
  const described = Object.entries(problems(...statuses)).map(([status, { description = '' }]) => [
    status,
    { description, content: { 'application/json': { schema: openAiError } } },
  ]);
  return Object.fromEntries(described);
}
