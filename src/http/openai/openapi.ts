import type { ZodOpenApiResponsesObject } from 'zod-openapi';
import { problems } from '../schemas/openapi.ts';
import { openAiError } from './schemas.ts';

/** As `problems`, in the form of OpenAI. */
export function openAiErrors(...statuses: Parameters<typeof problems>): ZodOpenApiResponsesObject {
  const described = Object.entries(problems(...statuses)).map(([status, { description = '' }]) => [
    status,
    { description, content: { 'application/json': { schema: openAiError } } },
  ]);
  return Object.fromEntries(described);
}
