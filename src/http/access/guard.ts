import type { Request, Response } from 'express';
import type { ApiKey } from '../../domain/access/api-keys.ts';
import { AppError, isDatabaseError } from '../../domain/errors.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import type { ApiKeyService } from '../../services/access/api-keys.ts';
import type { SignedLinks } from '../../services/access/signed-links.ts';
import { queryParameters } from '../request/query.ts';
import { loggedPath, pathOf } from '../response/problem.ts';
import { type Guard, isLinked, type Route, type RouteAccess } from '../route.ts';
import { anonymousCaller, type Caller, keyCaller, unauthenticatedCaller } from './caller.ts';
import { clientSubject, isUnreadable } from './client-subject.ts';
import { presentedKey } from './credentials.ts';
import type { Quotas } from './quotas.ts';

export interface GuardOptions {
  /** Whether authentication is on. */
  readonly required: boolean;
  /** Whether only this host can reach the server. */
  readonly loopback: boolean;
}

export interface GuardParts {
  readonly keys: Pick<ApiKeyService, 'authenticate' | 'remembers'>;
  readonly links: Pick<SignedLinks, 'verify'>;
  readonly quotas: Quotas;
  readonly clock: Clock;
  readonly log: Log;
}

/** Identifies the caller, counts the request against its quotas, then checks the scope. */
export function createGuard({ required, loopback }: GuardOptions, parts: GuardParts): Guard {
  const { quotas } = parts;
  // Without authentication everyone may chat, but metrics are open to this host alone.
  const isKeyRequired = ({ access }: Route) => required || (access === 'metrics' && !loopback);
  const admit = async (route: Route, request: Request, response: Response, caller: Caller) => {
    response.locals.caller = caller;
    // Before the scope, so that rejected requests are limited too.
    await quotas.admit(route, request, response, caller);
    if (isKeyRequired(route) && !isLinked(route, request)) checkScope(route.access, caller);
  };
  return (route, request, response) => {
    if (route.access === 'export' || route.access === 'admin') audit(parts.log, request, response);
    if (isLinked(route, request)) {
      return linkCaller(parts, request).then((caller) => admit(route, request, response, caller));
    }
    const subject = subjectOf(request);
    if (!isKeyRequired(route)) return admit(route, request, response, anonymousCaller(subject));
    const isKeyUsed = route.access !== 'open' || route.usesKey === true;
    const presented = isKeyUsed ? presentedKey(request) : undefined;
    if (presented === undefined) return admit(route, request, response, unauthenticatedCaller(subject));
    const identified =
      route.access === 'open' ? knownKey(parts, presented) : authenticate(parts, subject, presented);
    return identified.then((key) =>
      admit(route, request, response, key ? keyCaller(key) : unauthenticatedCaller(subject)),
    );
  };
}

/** On open routes an invalid key is ignored, also while the database cannot verify keys. */
async function knownKey({ keys }: GuardParts, presented: string): Promise<ApiKey | null> {
  try {
    return await keys.authenticate(presented);
  } catch (error) {
    if (isDatabaseError(error)) return null;
    throw error;
  }
}

function subjectOf(request: Request): string {
  return `address ${clientSubject(request.ip)}`;
}

/** @throws AppError `unauthorized`, `rate_limited`, `database_unavailable` */
async function authenticate(
  { keys, quotas }: GuardParts,
  subject: string,
  presented: string,
): Promise<ApiKey> {
  // A recently verified key works even where another client at its address guesses keys, and any valid key where
  // clients cannot be told apart.
  if (!keys.remembers(presented) && !isUnreadable(subject)) await quotas.checkFailures(subject);
  const key = await keys.authenticate(presented);
  if (key) return key;
  await quotas.countFailure(subject);
  throw unauthorized();
}

/** The same error for every reason. */
function unauthorized(): AppError {
  return new AppError(
    'unauthorized',
    'Send a valid API key as "Authorization: Bearer ck_…" or in X-API-Key',
    { headers: { 'WWW-Authenticate': 'Bearer realm="chat"' } },
  );
}

/** @throws AppError `unauthorized`, `forbidden` */
function checkScope(access: RouteAccess, { key }: Caller): void {
  if (access === 'open') return;
  if (!key) throw unauthorized();
  if (access === 'any' || key.scopes.includes(access) || key.scopes.includes('admin')) return;
  throw new AppError('forbidden', `Use a key with the scope "${access}"`, {
    headers: { 'WWW-Authenticate': `Bearer realm="chat", error="insufficient_scope", scope="${access}"` },
  });
}

/**
 * A signed link grants access to its path. The route reads nothing else from the request.
 * @throws AppError `link_invalid`, for every reason
 */
async function linkCaller({ links, clock }: GuardParts, request: Request): Promise<Caller> {
  const query = queryParameters(request.url);
  if (await links.verify(request.method, pathOf(request), query, clock.now())) {
    return anonymousCaller(subjectOf(request));
  }
  throw new AppError('link_invalid', 'The link is invalid or has expired; request a new one');
}

/** Logs every request to a sensitive route with its caller and outcome. */
function audit(log: Log, request: Request, response: Response): void {
  const { method } = request;
  const path = loggedPath(request);
  const subject = subjectOf(request);
  response.once('close', () => {
    const { requestId, caller }: { requestId?: string; caller?: Caller } = response.locals;
    const key = caller?.key;
    const who = key ? { key_id: key.id, key_prefix: key.prefix, owner: key.owner } : { subject };
    const { statusCode: status } = response;
    log.info({ audit: true, request_id: requestId, method, path, status, ...who }, 'audit');
  });
}
