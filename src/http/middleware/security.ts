import cors from 'cors';
import type { Request, RequestHandler, Response } from 'express';
import helmet from 'helmet';

/** Nothing of an API answer may be run or framed; pages bring their own policy. @param secure whether it goes over TLS */
export function securityHeaderValues(secure: boolean): Headers {
  const handler = helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
    },
    crossOriginResourcePolicy: { policy: 'cross-origin' },
    strictTransportSecurity: secure ? { maxAge: 31_536_000, includeSubDomains: true } : false,
    xFrameOptions: { action: 'deny' },
  });
  // These headers depend on nothing of a request, so helmet is asked once: asking it each time took 5 % of a cached
  // reply, setting them takes 1 %.
  const headers = new Headers();
  const sink = { setHeader: (name: string, value: string) => headers.set(name, value), removeHeader() {} };
  handler({} as Request, sink as unknown as Response, () => {});
  return headers;
}

/** helmet's headers; HSTS only where the request came over TLS, which behind a proxy TRUST_PROXY decides. */
export function securityHeaders(): RequestHandler {
  const plain = [...securityHeaderValues(false)];
  const secure = [...securityHeaderValues(true)];
  return (request, response, next) => {
    for (const [name, value] of request.secure ? secure : plain) response.setHeader(name, value);
    next();
  };
}

const LOOPBACK_ORIGIN = /^https?:\/\/(?:localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(?::\d{1,5})?$/;

/** @param origins who may call from a browser */
export function crossOrigin(origins: '*' | 'loopback' | readonly string[]): RequestHandler {
  const handle = cors({
    origin: origins === 'loopback' ? LOOPBACK_ORIGIN : origins === '*' ? '*' : [...origins],
    methods: ['GET', 'HEAD', 'POST', 'DELETE'],
    exposedHeaders: [
      'X-Request-Id',
      'X-Conversation-Id',
      'X-Stream-Id',
      'Cache-Status',
      'Idempotent-Replayed',
      'Retry-After',
      'RateLimit',
      'RateLimit-Policy',
      'Location',
      'Content-Disposition',
    ],
    maxAge: 600,
  });
  return (request, response, next) => {
    const { origin, 'access-control-request-method': asked } = request.headers;
    // cors answers every OPTIONS itself; one that is no preflight belongs to the routes.
    if (origin === undefined || (request.method === 'OPTIONS' && asked === undefined)) return next();
    handle(request, response, next);
  };
}
