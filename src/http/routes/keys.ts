import type { Response } from 'express';
import type { ApiKey } from '../../domain/access/api-keys.ts';
import { AppError } from '../../domain/errors.ts';
import { isoTime } from '../../domain/time.ts';
import type { ApiKeyService, CreatedKey } from '../../services/access/api-keys.ts';
import { callerOf } from '../access/caller.ts';
import type { BodyReader } from '../request/body.ts';
import { check } from '../request/validate.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { pathId } from '../schemas/common.ts';
import { type ApiKeyBody, apiKey, keyList, keyRequest, newKey } from '../schemas/keys.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';

interface KeyRouteParts {
  readonly keys: ApiKeyService;
  readonly readBody: BodyReader;
}

export function keyRoutes(parts: KeyRouteParts): Route[] {
  return [listRoute(parts), createRoute(parts), revokeRoute(parts), rotateRoute(parts)];
}

/** Without authentication anyone could create a key that stays valid after authentication is turned on. */
function requireKey(response: Response): void {
  if (callerOf(response).key) return;
  throw new AppError('forbidden', 'Authentication is off (AUTH=off); create keys with npm run keys');
}

function listRoute({ keys }: KeyRouteParts): Route {
  return {
    method: 'get',
    path: '/api/keys',
    access: 'admin',
    operation: {
      summary: 'List API keys, newest first',
      description: 'Includes revoked and expired keys. The keys themselves are not shown.',
      tags: ['keys'],
      responses: { 200: { description: 'The keys', ...jsonBody(keyList) }, ...problems(503) },
    },
    async handle(_request, response) {
      requireKey(response);
      sendJson(response, 200, { keys: (await keys.list()).map(presentKey) });
    },
  };
}

function createRoute({ keys, readBody }: KeyRouteParts): Route {
  return {
    method: 'post',
    path: '/api/keys',
    access: 'admin',
    operation: {
      summary: 'Create an API key',
      tags: ['keys'],
      requestBody: {
        required: true,
        ...jsonBody(keyRequest, { owner: 'my-backend', scopes: ['chat', 'read'] }),
      },
      responses: {
        201: { description: 'The key; it is not shown again', ...jsonBody(newKey) },
        ...problems(400, 413, 415, 503),
      },
    },
    async handle(request, response) {
      requireKey(response);
      const { owner, scopes, ...more } = check(keyRequest, await readBody(request));
      const limits = { requestsPerMinute: more.requests ?? null, openStreams: more.streams ?? null };
      const expiresAt = more.expires_at ?? null;
      sendCreated(response, await keys.create({ owner, scopes, limits, expiresAt }));
    },
  };
}

function revokeRoute({ keys }: KeyRouteParts): Route {
  return {
    method: 'delete',
    path: '/api/keys/:id',
    access: 'admin',
    operation: {
      summary: 'Revoke an API key',
      description:
        'This process rejects it immediately, all others within a second. Repeating the request changes nothing.',
      tags: ['keys'],
      requestParams: { path: pathId },
      responses: {
        200: { description: 'The key is revoked', ...jsonBody(apiKey) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      requireKey(response);
      const revoked = await keys.revoke(check(pathId, request.params).id);
      if (!revoked) throw keyNotFound();
      sendJson(response, 200, presentKey(revoked));
    },
  };
}

function rotateRoute({ keys }: KeyRouteParts): Route {
  return {
    method: 'post',
    path: '/api/keys/:id/rotate',
    access: 'admin',
    operation: {
      summary: 'Replace an API key by a new one',
      description:
        'The new key has the same owner, scopes, limits and expiry. The old one is revoked immediately.',
      tags: ['keys'],
      requestParams: { path: pathId },
      responses: {
        201: { description: 'The new key; it is not shown again', ...jsonBody(newKey) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      requireKey(response);
      const created = await keys.rotate(check(pathId, request.params).id);
      if (!created) throw keyNotFound();
      sendCreated(response, created);
    },
  };
}

function sendCreated(response: Response, { key, apiKey: made }: CreatedKey): void {
  sendJson(response, 201, { key, ...presentKey(made) });
}

function keyNotFound(): AppError {
  return new AppError('key_not_found', 'No active key with this id exists');
}

function presentKey(key: ApiKey): ApiKeyBody {
  return {
    id: key.id,
    prefix: key.prefix,
    owner: key.owner,
    scopes: [...key.scopes],
    requests: key.limits.requestsPerMinute,
    streams: key.limits.openStreams,
    created_at: isoTime(key.createdAt),
    expires_at: isoTime(key.expiresAt),
    last_used_at: isoTime(key.lastUsedAt),
    revoked_at: isoTime(key.revokedAt),
  };
}
