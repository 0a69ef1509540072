import type { RequestHandler } from 'express';
import { AppError } from '../../domain/errors.ts';

const LOOPBACK = /^(?:localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])$/i;
const PORT = /:\d{1,5}$/;

/**
 * Serves only requests that name this host as people do who mean it. A web page can make its own name point here (DNS
 * rebinding) and so call a server without keys from its visitors' browsers; the name in `Host` stays its own.
 * @param allowed names beside those of the loopback, without ports, lower case
 */
export function hostAllowlist(allowed: readonly string[]): RequestHandler {
  return (request, _response, next) => {
    const { host } = request.headers;
    // Only HTTP/1.0 may leave it out, and no browser does.
    if (host === undefined) return next();
    const name = host.replace(PORT, '');
    if (LOOPBACK.test(name) || allowed.includes(name.toLowerCase())) return next();
    throw new AppError(
      'misdirected_request',
      'This server does not go by the name in the Host header; ALLOWED_HOSTS names those it does',
    );
  };
}
