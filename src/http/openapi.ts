import { createDocument, type ZodOpenApiPathsObject } from 'zod-openapi';
import type { Route } from './route.ts';
import { problem } from './schemas/common.ts';

/** What any request can meet before or beside its operation: 404, 405, 408, 431, 500. */
const OTHER_FAULT = {
  description: 'Any other fault',
  content: { 'application/problem+json': { schema: problem } },
};

/** The OpenAPI 3.1 document of the routes, made from the same schemas that check the requests. */
export function openApiDocument(routes: readonly Route[], version: string): object {
  const paths: ZodOpenApiPathsObject = {};
  for (const { method, path, operation } of routes) {
    if (operation === undefined) continue;
    const template = path.replace(/:(\w+)/g, '{$1}');
    const responses = { ...operation.responses, default: OTHER_FAULT };
    paths[template] = { ...paths[template], [method]: { ...operation, responses } };
  }
  return createDocument({
    openapi: '3.1.0',
    info: {
      title: 'Chat API',
      version,
      description:
        'Chat with any OpenAI-compatible model over REST and server-sent events; conversations are kept in SQLite or MySQL. ' +
        'Every error is an RFC 9457 problem document.',
    },
    servers: [{ url: '/' }],
    tags: [{ name: 'chat' }, { name: 'conversations' }, { name: 'exports' }, { name: 'health' }],
    paths,
  });
}
