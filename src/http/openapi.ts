import { createDocument, type ZodOpenApiOverride, type ZodOpenApiPathsObject } from 'zod-openapi';
import type { Route, RouteAccess } from './route.ts';
import { problemResponse, problems } from './schemas/openapi.ts';

/** Errors of every request: 404, 405, 408, 431, 500. */
const OTHER_ERROR = problemResponse('Any other error');

/** Alternatives; unused where authentication is off. */
const SECURITY = [{ bearer: [] }, { apiKey: [] }];

function guardErrors(access: RouteAccess) {
  if (access === 'open') return {};
  return access === 'any' ? problems(401, 429) : problems(401, 403, 429);
}

/** The bounds of JavaScript's integers say nothing to callers, and Swagger UI shows them as examples. */
const withoutSafeIntegers: ZodOpenApiOverride = ({ jsonSchema }) => {
  if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
  if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
};

/** The OpenAPI 3.1 document of the routes, from the schemas that validate the requests. */
export function openApiDocument(routes: readonly Route[], version: string): object {
  const paths: ZodOpenApiPathsObject = {};
  for (const { method, path, operation, access } of routes) {
    if (operation === undefined) continue;
    const template = path.replace(/:(\w+)/g, '{$1}');
    const responses = { ...operation.responses, ...guardErrors(access), default: OTHER_ERROR };
    const security = access === 'open' ? [] : SECURITY;
    const note = access === 'open' ? '' : `Scope: \`${access}\`.`;
    const description = [operation.description, note].filter(Boolean).join(' ');
    paths[template] = { ...paths[template], [method]: { ...operation, description, security, responses } };
  }
  return createDocument(
    {
      openapi: '3.1.0',
      info: {
        title: 'Chat API',
        version,
        description:
          'Chat with any OpenAI-compatible model over REST and server-sent events. Conversations are stored in SQLite or MySQL. ' +
          'Every error is an RFC 9457 problem document. The whole reference, with streams, idempotency and error codes, is `docs/api.md` of this project.',
      },
      servers: [{ url: '.' }],
      tags: [
        { name: 'chat' },
        { name: 'openai' },
        { name: 'conversations' },
        { name: 'exports' },
        { name: 'keys' },
        { name: 'health' },
      ],
      components: {
        securitySchemes: {
          bearer: { type: 'http', scheme: 'bearer', description: 'An API key, where authentication is on' },
          apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key' },
        },
      },
      paths,
    },
    { override: withoutSafeIntegers },
  );
}
