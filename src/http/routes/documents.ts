import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import express, { type ErrorRequestHandler, type Express, type RequestHandler, type Response } from 'express';
import { AppError } from '../../domain/errors.ts';
import { presentedKey } from '../access/credentials.ts';
import { methodNotAllowed, sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { pageFiles } from '../web/page-files.ts';
import { STRINGS } from '../web/strings.js';

const WEB = new URL('../web/', import.meta.url);

/** The files of Swagger UI's package that the docs page loads. No others are served. */
const SWAGGER_FILES: ReadonlySet<string> = new Set([
  '/swagger-ui.css',
  '/swagger-ui-bundle.js',
  '/favicon-32x32.png',
]);

/** The libraries that the home page imports from `/assets/vendor`, and the files of their packages. */
const VENDOR_FILES: Readonly<Record<string, string>> = {
  '/marked.js': import.meta.resolve('marked'),
  '/marked-cjk-friendly.js': import.meta.resolve('marked-cjk-friendly'),
};

const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' blob:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** Only the policy `entity` of the page may turn text into HTML: one named character of Markdown at a time. */
const HOME_POLICY = `${POLICY}; require-trusted-types-for 'script'; trusted-types entity`;

/** Swagger UI needs style attributes and icons from data: URLs. */
const DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'").replace(
  "img-src 'self'",
  "img-src 'self' data:",
);

interface DocumentOptions {
  readonly version: string;
  /** Whether authentication is on. */
  readonly required: boolean;
}

/**
 * The home page, the OpenAPI document and its browser. Where authentication is on, /docs needs a key, and a browser sends
 * none when it opens a page, so {@link mountAssets} sends it to `/?docs`. There the home page, which asks for the key
 * and has it, fetches /docs and replaces itself by it. Only there has the home page the policy of Swagger UI.
 * @param apiRoutes the routes of the OpenAPI document
 */
export function documentRoutes(apiRoutes: readonly Route[], options: DocumentOptions): Route[] {
  const { version } = options;
  let document: object | undefined;
  const docs = page('docs.html', { version });
  return [
    homeRoute(apiRoutes, options),
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

function homeRoute(apiRoutes: readonly Route[], { version, required }: DocumentOptions): Route {
  const home = page('index.html', { version, keys: required ? 'required' : 'off' });
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
      // JSON comes first, for clients that accept anything, such as curl.
      const type = request.accepts(['application/json', 'text/html']);
      const policy = new URLSearchParams(request.url.split('?', 2)[1]).has('docs')
        ? DOCS_POLICY
        : HOME_POLICY;
      if (type === 'text/html') sendPage(response, home, policy);
      else sendJson(response, 200, summary);
    },
  };
}

/** Fills in the values and the English texts. The page itself switches the language. */
function page(file: string, values: Readonly<Record<string, string>>): string {
  const template = readFileSync(new URL(file, WEB), 'utf8');
  return template.replace(/\{\{(\w+)\}\}/g, (_match, key: string) => {
    const value = values[key] ?? STRINGS[key]?.[1];
    if (value === undefined)
      throw new Error(`${file} uses the text "${key}", which strings.js does not have`);
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

/** A browser that opens a page with `Accept: text/html` can ask its user for the key at the home page. */
const signIn: ErrorRequestHandler = (error, request, response, next) => {
  const isUnauthorized = error instanceof AppError && error.code === 'unauthorized';
  if (!isUnauthorized || presentedKey(request) !== undefined) return next(error);
  // JSON comes first, as at the home page.
  if (request.accepts(['application/json', 'text/html']) !== 'text/html') return next(error);
  response.setHeader('Cache-Control', 'no-store');
  response.setHeader('Location', './?docs');
  response.status(303).end();
};

/** The files of the pages: own ones and libraries under `/assets`, Swagger UI's under `/docs-assets`. */
export function mountAssets(app: Express): void {
  const swagger = dirname(fileURLToPath(import.meta.resolve('swagger-ui-dist/package.json')));
  const swaggerFiles = files(swagger, 'public, max-age=3600');
  app.use('/docs', signIn);
  app.use(['/assets', '/docs-assets'], readOnlyMethods());
  app.use('/assets', pageFiles());
  app.use('/assets', files(fileURLToPath(new URL('assets/', WEB)), 'no-cache'));
  app.use('/assets/vendor', (request, response, next) => {
    const file = Object.hasOwn(VENDOR_FILES, request.path) ? VENDOR_FILES[request.path] : undefined;
    if (file === undefined) return next();
    response.setHeader('Cache-Control', 'no-cache');
    response.sendFile(fileURLToPath(file), { acceptRanges: false, cacheControl: false, dotfiles: 'allow' });
  });
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

function readOnlyMethods(): RequestHandler {
  const allow = 'GET, HEAD, OPTIONS';
  return (request, response, next) => {
    if (request.method === 'GET' || request.method === 'HEAD') return next();
    if (request.method !== 'OPTIONS') throw methodNotAllowed(request.method, allow);
    response.setHeader('Allow', allow);
    response.status(204).end();
  };
}
