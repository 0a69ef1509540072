import type { Express, Request, Response } from 'express';
import { z } from 'zod';
import type { ZodOpenApiOperationObject } from 'zod-openapi';
import type { Scope } from '../domain/access/api-keys.ts';
import { queryParameters, rejectUnknownParameters } from './request/query.ts';
import { methodNotAllowed } from './response/problem.ts';

export type Method = 'get' | 'post' | 'put' | 'patch' | 'delete';

/** Who may call a route where authentication is on: everyone, any key, or a key with the scope. */
export type RouteAccess = 'open' | 'any' | Scope;

/** The quotas of a route beside the number of requests. */
export type Quota = 'streams' | 'tokens' | 'exports';

/** One operation with its OpenAPI description. */
export interface Route {
  readonly method: Method;
  /** In the notation of Express, such as `/api/conversations/:id`. */
  readonly path: string;
  /** Undefined: not part of the documented API. */
  readonly operation?: ZodOpenApiOperationObject;
  readonly access: RouteAccess;
  readonly quotas?: readonly Quota[];
  /** Whether an open route responds differently to callers with a key. */
  readonly usesKey?: boolean;
  /** Whether the route itself reports unknown query parameters. Open routes ignore them. */
  readonly reportsQuery?: boolean;
  /** Whether a signed link grants access too. */
  readonly linked?: boolean;
  handle(request: Request, response: Response): void | Promise<void>;
}

/** Whether the request presents a signed link. */
export function isLinked(route: Route, { url }: Request): boolean {
  return route.linked === true && url.includes('?') && 'signature' in queryParameters(url);
}

/** Admits a request to its route, or throws the error to answer with. Returns no promise where it need not wait. */
export type Guard = (route: Route, request: Request, response: Response) => void | Promise<void>;

/** The query parameters of a route; undefined where others are no error. */
function knownParameters({ operation, access, reportsQuery }: Route): readonly string[] | undefined {
  if (!operation || access === 'open' || reportsQuery) return undefined;
  const query = operation.requestParams?.query;
  return query instanceof z.ZodObject ? Object.keys(query.shape) : [];
}

/**
 * Mounts the routes. Other methods on their paths get 405 with `Allow`, OPTIONS gets 204 with it. Where two paths match
 * a request, the first one wins, for every method.
 */
export function mountRoutes(app: Express, routes: readonly Route[], guard: Guard): void {
  for (const [path, operations] of Map.groupBy(routes, (route) => route.path)) {
    const allow = operations
      .flatMap(({ method }) => (method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()]))
      .concat('OPTIONS')
      .join(', ');
    const mounted = app.route(path);
    for (const route of operations) {
      const known = knownParameters(route);
      const handle = (request: Request, response: Response) => {
        // The parameters of a signed link are part of what it signs.
        if (known && request.url.includes('?') && !isLinked(route, request))
          rejectUnknownParameters(request.url, known);
        return route.handle(request, response);
      };
      mounted[route.method]((request, response) => {
        response.locals.route = path;
        const admitted = guard(route, request, response);
        return admitted ? admitted.then(() => handle(request, response)) : handle(request, response);
      });
    }
    mounted.options((_request, response) => {
      response.locals.route = path;
      response.setHeader('Allow', allow);
      response.status(204).end();
    });
    mounted.all((request, response) => {
      response.locals.route = path;
      throw methodNotAllowed(request.method, allow);
    });
  }
}
