import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import express, { type Express, type RequestHandler, type Response } from 'express';
import { AppError } from '../../domain/errors.ts';
import { queryParameters } from '../request/query.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { STRINGS } from '../web/assets/strings.js';

const WEB = new URL('../web/', import.meta.url);

/** What of Swagger UI's package the docs page loads; the rest of it is nobody's business. */
const SWAGGER_FILES: ReadonlySet<string> = new Set([
  '/swagger-ui.css',
  '/swagger-ui-bundle.js',
  '/favicon-32x32.png',
]);

const HOME_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** Swagger UI sets style attributes and draws its icons from data: URLs; everything else is as strict as at home. */
const DOCS_POLICY = HOME_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'").replace(
  "img-src 'self'",
  "img-src 'self' data:",
);

/**
 * The home page, the OpenAPI document and its browser. The latter needs a key where keys are asked for, and a browser
 * that goes to a page sends none: the home page, which has the key, fetches it and writes it in its own place. That
 * is done at `/?docs`, so that only there the home page goes by the policy that Swagger UI needs.
 * @param apiRoutes what the OpenAPI document is made of
 */
export function documentRoutes(apiRoutes: readonly Route[], version: string): Route[] {
  let document: object | undefined;
  const docs = page('docs.html', version);
  return [
    homeRoute(apiRoutes, version),
    {
      method: 'get',
      path: '/openapi.json',
      access: 'any',
      async handle(_request, response) {
        // Loaded on the first request: the library takes a tenth of the CPU time of a start.
        const { openApiDocument } = await import('../openapi.ts');
        document ??= openApiDocument(apiRoutes, version);
        sendJson(response, 200, document);
      },
    },
    {
      method: 'get',
      path: '/docs',
      access: 'any',
      handle: (_request, response) => sendPage(response, docs, DOCS_POLICY),
    },
  ];
}

function homeRoute(apiRoutes: readonly Route[], version: string): Route {
  const home = page('index.html', version);
  const summary = {
    name: 'chat-api-server',
    version,
    docs: '/docs',
    openapi: '/openapi.json',
    health: '/health/ready',
    endpoints: apiRoutes.map(({ method, path, operation }) => ({
      method: method.toUpperCase(),
      path: path.replace(/:(\w+)/g, '{$1}'),
      summary: operation?.summary,
    })),
  };
  return {
    method: 'get',
    path: '/',
    access: 'open',
    handle(request, response) {
      response.vary('Accept');
      // The first of the two is for callers that take anything, as curl does.
      const wanted = request.accepts(['application/json', 'text/html']);
      const policy = 'docs' in queryParameters(request.url) ? DOCS_POLICY : HOME_POLICY;
      if (wanted === 'text/html') sendPage(response, home, policy);
      else sendJson(response, 200, summary);
    },
  };
}

/** A page with its version and words filled in: English, until the page itself has looked which language is wanted. */
function page(file: string, version: string): string {
  const template = readFileSync(new URL(file, WEB), 'utf8');
  return template.replace(/\{\{(\w+)\}\}/g, (_match, key: string) => {
    const value = key === 'version' ? version : STRINGS[key]?.[1];
    if (value === undefined) throw new Error(`${file} wants words for "${key}", and there are none`);
    return value.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
  });
}

function sendPage(response: Response, html: string, policy: string): void {
  response.statusCode = 200;
  response.setHeader('Content-Security-Policy', policy);
  response.setHeader('Content-Type', 'text/html; charset=utf-8');
  response.setHeader('Cache-Control', 'no-cache');
  response.setHeader('Content-Length', Buffer.byteLength(html));
  response.end(html);
}

/** The files of the pages: ours under `/assets`, Swagger UI's own under `/docs-assets`. */
export function mountAssets(app: Express): void {
  const swagger = dirname(fileURLToPath(import.meta.resolve('swagger-ui-dist/package.json')));
  const swaggerFiles = files(swagger, 'public, max-age=3600');
  app.use(['/assets', '/docs-assets'], onlyReading());
  // Their names carry no version: ask each time, and mostly hear 304.
  app.use('/assets', files(fileURLToPath(new URL('assets/', WEB)), 'no-cache'));
  app.use('/docs-assets', (request, response, next) =>
    SWAGGER_FILES.has(request.path) ? swaggerFiles(request, response, next) : next(),
  );
}

function files(root: string, cacheControl: string): RequestHandler {
  return express.static(root, {
    index: false,
    redirect: false,
    dotfiles: 'deny',
    fallthrough: true,
    acceptRanges: false,
    cacheControl: false,
    setHeaders: (response) => response.setHeader('Cache-Control', cacheControl),
  });
}

function onlyReading(): RequestHandler {
  const allow = 'GET, HEAD, OPTIONS';
  return (request, response, next) => {
    if (request.method === 'GET' || request.method === 'HEAD') return next();
    if (request.method !== 'OPTIONS')
      throw new AppError('method_not_allowed', `${request.method} is not possible here; ${allow} are`, {
        headers: { Allow: allow },
      });
    response.setHeader('Allow', allow);
    response.status(204).end();
  };
}
