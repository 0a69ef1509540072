import type { Request, Response } from 'express';
import type { ApiKey } from '../../domain/api-keys.ts';
import { AppError } from '../../domain/errors.ts';
import type { Clock, Log } from '../../domain/runtime.ts';
import type { ApiKeyService } from '../../services/access/api-keys.ts';
import type { SignedLinks } from '../../services/access/signed-links.ts';
import { queryParameters } from '../request/query.ts';
import { loggedPath, pathOf } from '../response/problem.ts';
import type { Guard, Route, RouteAccess } from '../route.ts';
import { anonymousCaller, type Caller, keyCaller, unauthenticatedCaller } from './caller.ts';
import { clientSubject } from './client-subject.ts';
import { presentedKey } from './credentials.ts';
import type { Quotas } from './quotas.ts';

export interface GuardParts {
  /** Whether a key is asked for. */
  readonly required: boolean;
  readonly keys: Pick<ApiKeyService, 'authenticate' | 'remembers'>;
  readonly links: Pick<SignedLinks, 'verify'>;
  readonly quotas: Quotas;
  readonly clock: Clock;
  readonly log: Log;
}

/** Says who sent a request, and whether they may and how often. */
export function createGuard(parts: GuardParts): Guard {
  const { required, quotas } = parts;
  const identified = (route: Route, request: Request, response: Response, caller: Caller) => {
    response.locals.caller = caller;
    // Counted first, so that those who may not are told so only as often as others may ask.
    const admitted = quotas.admit(route, request, response, caller.subject);
    if (!required || isLinked(route, request)) return admitted;
    if (admitted) return admitted.then(() => checkScope(route.access, caller));
    checkScope(route.access, caller);
  };
  return (route, request, response) => {
    if (route.access === 'export' || route.access === 'admin') audit(parts.log, request, response);
    if (isLinked(route, request)) {
      return linkCaller(parts, request).then((caller) => identified(route, request, response, caller));
    }
    if (!required) return identified(route, request, response, anonymousCaller(subjectOf(request)));
    const presented = presentedKey(request);
    if (presented === undefined)
      return identified(route, request, response, unauthenticatedCaller(subjectOf(request)));
    return authenticated(parts, request, presented).then(
      (key) => identified(route, request, response, keyCaller(key)),
      (error: unknown) => {
        // What is open to all is so, too, while nobody can say who asks.
        if (route.access !== 'open' || !isUnavailable(error)) throw error;
        return identified(route, request, response, unauthenticatedCaller(subjectOf(request)));
      },
    );
  };
}

function isUnavailable(error: unknown): boolean {
  return error instanceof AppError && error.code === 'database_unavailable';
}

function subjectOf(request: Request): string {
  return `address ${clientSubject(request.ip)}`;
}

/** Of whatever is wrong with a key the caller hears the same. */
function unauthorized(): AppError {
  return new AppError(
    'unauthorized',
    'This needs a valid API key, as "Authorization: Bearer ck_…" or in X-API-Key',
    {
      headers: { 'WWW-Authenticate': 'Bearer realm="chat"' },
    },
  );
}

/** @throws AppError `unauthorized`, `rate_limited`, `database_unavailable` */
async function authenticated(
  { keys, quotas }: GuardParts,
  request: Request,
  presented: string,
): Promise<ApiKey> {
  const address = subjectOf(request);
  // Whoever shares an address with somebody who guesses keys, and was here with a good one before, is let through.
  if (!keys.remembers(presented)) quotas.checkFailures(address);
  const key = await keys.authenticate(presented);
  if (key) return key;
  await quotas.countFailure(address);
  throw unauthorized();
}

/** @throws AppError `unauthorized`, `forbidden` */
function checkScope(access: RouteAccess, { key }: Caller): void {
  if (access === 'open') return;
  if (!key) throw unauthorized();
  if (access === 'any' || key.scopes.includes(access) || key.scopes.includes('admin')) return;
  throw new AppError('forbidden', `This route needs a key with the scope "${access}"`, {
    headers: { 'WWW-Authenticate': `Bearer realm="chat", error="insufficient_scope", scope="${access}"` },
  });
}

function isLinked(route: Route, request: Request): boolean {
  return route.linked === true && request.url.includes('?') && 'signature' in queryParameters(request.url);
}

/**
 * What the signature covers is open to whoever has it, and the path is the only thing that the route looks at.
 * @throws AppError `link_invalid`, for whatever reason
 */
async function linkCaller({ links, clock }: GuardParts, request: Request): Promise<Caller> {
  const query = queryParameters(request.url);
  if (await links.verify(request.method, pathOf(request), query, clock.now())) {
    return anonymousCaller(subjectOf(request));
  }
  throw new AppError('link_invalid', 'The link is invalid or has expired');
}

/** One line for each try to use what lets somebody see or take away much: who, what, and what came of it. */
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
