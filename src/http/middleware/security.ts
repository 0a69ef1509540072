import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import cors from 'cors';
import type { RequestHandler } from 'express';
import helmet from 'helmet';

type HeaderFields = readonly (readonly [name: string, value: string])[];

/** @param secure whether the request came over TLS */
export function securityHeaderValues(secure: boolean): HeaderFields {
  return headersOf(
    helmet({
      // Responses of the API must not be run or framed. Pages set their own policy.
      contentSecurityPolicy: {
        useDefaults: false,
        directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
      },
      crossOriginResourcePolicy: { policy: 'cross-origin' },
      strictTransportSecurity: secure ? { maxAge: 31_536_000, includeSubDomains: true } : false,
      xFrameOptions: { action: 'deny' },
    }),
  );
}

/**
 * The headers that helmet sets, from one call with a response that is never sent. They do not depend on the request, and a call
 * for each request takes 5 % of a cached reply, where setting them takes 1 %.
 */
function headersOf(middleware: ReturnType<typeof helmet>): HeaderFields {
  const request = new IncomingMessage(new Socket());
  const response = new ServerResponse(request);
  middleware(request, response, () => {});
  return Object.entries(response.getHeaders()).map(([name, value]) => [name, String(value)]);
}

/** Sets helmet's headers; HSTS only over TLS, which TRUST_PROXY decides behind a proxy. */
export function securityHeaders(): RequestHandler {
  const plain = securityHeaderValues(false);
  const secure = securityHeaderValues(true);
  return (request, response, next) => {
    for (const [name, value] of request.secure ? secure : plain) response.setHeader(name, value);
    next();
  };
}

const LOOPBACK_ORIGIN = /^https?:\/\/(?:localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(?::\d{1,5})?$/;

/** @param origins whose pages may call the API */
export function crossOrigin(origins: '*' | 'loopback' | readonly string[]): RequestHandler {
  const handle = cors({
    origin: origins === 'loopback' ? LOOPBACK_ORIGIN : origins === '*' ? '*' : [...origins],
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
    exposedHeaders: [
      'X-Request-Id',
      'X-Conversation-Id',
      'X-Stream-Id',
      'X-Upstream',
      'Cache-Status',
      'Idempotent-Replayed',
      'Retry-After',
      'X-Should-Retry',
      'RateLimit',
      'RateLimit-Policy',
      'Location',
      'Content-Disposition',
    ],
    maxAge: 600,
  });
  return (request, response, next) => {
    const { origin, 'access-control-request-method': method } = request.headers;
    // cors answers every OPTIONS request. Those that are no preflight belong to the routes.
    if (origin === undefined || (request.method === 'OPTIONS' && method === undefined)) return next();
    handle(request, response, next);
  };
}
