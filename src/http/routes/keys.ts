import type { Response } from 'express';
import type { ApiKey } from '../../domain/api-keys.ts';
import type { Instant } from '../../domain/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { ApiKeyService, CreatedKey } from '../../services/access/api-keys.ts';
import { callerOf } from '../access/caller.ts';
import type { BodyReader } from '../request/body.ts';
import { check } from '../request/validate.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { type ApiKeyBody, apiKey, keyId, keyList, keyRequest, newKey } from '../schemas/keys.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';

interface KeyRouteParts {
  readonly keys: ApiKeyService;
  readonly readBody: BodyReader;
}

export function keyRoutes(parts: KeyRouteParts): Route[] {
  return [listRoute(parts), createRoute(parts), revokeRoute(parts), rotateRoute(parts)];
}

/**
 * Where no keys are asked for, everybody may do everything, but not this: a key that somebody made then would still be
 * good when keys are asked for.
 */
function checkHolder(response: Response): void {
  if (callerOf(response).key) return;
  throw new AppError('forbidden', 'This server asks for no keys (AUTH=off); make them with npm run keys');
}

function listRoute({ keys }: KeyRouteParts): Route {
  return {
    method: 'get',
    path: '/api/keys',
    access: 'admin',
    operation: {
      summary: 'List API keys, the newest first',
      description: 'All there ever were, without what is secret of them.',
      tags: ['keys'],
      responses: { 200: { description: 'The keys', ...jsonBody(keyList) }, ...problems(503) },
    },
    async handle(_request, response) {
      checkHolder(response);
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
      summary: 'Make an API key',
      tags: ['keys'],
      requestBody: { required: true, ...jsonBody(keyRequest) },
      responses: {
        201: { description: 'The key, which is shown this once', ...jsonBody(newKey) },
        ...problems(400, 413, 415, 503),
      },
    },
    async handle(request, response) {
      checkHolder(response);
      const { owner, scopes, expires_at } = check(keyRequest, await readBody(request));
      sendCreated(response, await keys.create({ owner, scopes, expiresAt: expires_at ?? null }));
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
        'It is refused at once by this process, and within a second by all others. Again changes nothing.',
      tags: ['keys'],
      requestParams: { path: keyId },
      responses: { 200: { description: 'It is revoked', ...jsonBody(apiKey) }, ...problems(400, 404, 503) },
    },
    async handle(request, response) {
      checkHolder(response);
      const revoked = await keys.revoke(check(keyId, request.params).id);
      if (!revoked) throw noKey();
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
      description: 'For the same owner, scopes and expiry; the old one is revoked at once.',
      tags: ['keys'],
      requestParams: { path: keyId },
      responses: {
        201: { description: 'The new key, which is shown this once', ...jsonBody(newKey) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      checkHolder(response);
      const created = await keys.rotate(check(keyId, request.params).id);
      if (!created) throw noKey();
      sendCreated(response, created);
    },
  };
}

function sendCreated(response: Response, { key, apiKey: made }: CreatedKey): void {
  sendJson(response, 201, { key, ...presentKey(made) });
}

function noKey(): AppError {
  return new AppError('key_not_found', 'There is no key with this id that is still good');
}

function time(at: Instant | null): string | null {
  return at === null ? null : new Date(at).toISOString();
}

function presentKey(key: ApiKey): ApiKeyBody {
  return {
    id: key.id,
    prefix: key.prefix,
    owner: key.owner,
    scopes: [...key.scopes],
    created_at: new Date(key.createdAt).toISOString(),
    expires_at: time(key.expiresAt),
    last_used_at: time(key.lastUsedAt),
    revoked_at: time(key.revokedAt),
  };
}
