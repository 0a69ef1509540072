import type { Express, Request, Response } from 'express';
import type { ZodOpenApiOperationObject } from 'zod-openapi';
import type { Scope } from '../domain/api-keys.ts';
import { AppError } from '../domain/errors.ts';

export type Method = 'get' | 'post' | 'delete';

/** Who may, where the server asks for keys: everybody, every key, or a key with that scope. */
export type RouteAccess = 'open' | 'any' | Scope;

/** What a request counts against, beside the number of requests. */
export type Quota = 'streams' | 'tokens' | 'exports';

/** One operation: what it does and what the OpenAPI document says of it stand side by side. */
export interface Route {
  readonly method: Method;
  /** In Express's notation, such as `/api/conversations/:id`. */
  readonly path: string;
  /** Undefined: not part of the documented API (pages and their files). */
  readonly operation?: ZodOpenApiOperationObject;
  readonly access: RouteAccess;
  readonly quotas?: readonly Quota[];
  /** Whether a signed link opens it too. */
  readonly linked?: boolean;
  handle(request: Request, response: Response): void | Promise<void>;
}

/** What lets a request through to its route, or throws what it is answered with. Without a promise when it knows. */
export type Guard = (route: Route, request: Request, response: Response) => void | Promise<void>;

/**
 * Mounts every route; other methods on the same path get 405 with `Allow`, OPTIONS a 204 with it. Of two paths that
 * fit a request the first counts, for every method.
 */
export function mountRoutes(app: Express, routes: readonly Route[], guard: Guard): void {
  for (const [path, operations] of Map.groupBy(routes, (route) => route.path)) {
    const allow = operations
      .flatMap(({ method }) => (method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()]))
      .concat('OPTIONS')
      .join(', ');
    const mounted = app.route(path);
    for (const route of operations)
      mounted[route.method]((request, response) => {
        const waiting = guard(route, request, response);
        return waiting
          ? waiting.then(() => route.handle(request, response))
          : route.handle(request, response);
      });
    mounted.options((_request, response) => {
      response.setHeader('Allow', allow);
      response.status(204).end();
    });
    mounted.all((request) => {
      throw new AppError('method_not_allowed', `${request.method} is not possible here; ${allow} are`, {
        headers: { Allow: allow },
      });
    });
  }
}
