import type { RequestHandler } from 'express';
import { AppError } from '../../domain/errors.ts';

const LOOPBACK = /^(?:localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])$/i;
const PORT = /:\d{1,5}$/;

/**
 * Rejects requests whose Host header is not on the list. It protects a server without authentication from DNS
 * rebinding, where a web page points its own name at this server.
 * @param allowed names beside the loopback's, lower case, without ports
 */
export function hostAllowlist(allowed: readonly string[]): RequestHandler {
  return (request, _response, next) => {
    const { host } = request.headers;
    // Only HTTP/1.0 may omit it, which no browser sends.
    if (host === undefined) return next();
    const name = host.replace(PORT, '');
    if (LOOPBACK.test(name) || allowed.includes(name.toLowerCase())) return next();
    throw new AppError(
      'misdirected_request',
      'The name in the Host header is not allowed; add it to ALLOWED_HOSTS',
    );
  };
}
