import type { IncomingMessage } from 'node:http';

/** RFC 6750, 2.1; the scheme in any case (RFC 9110, 11.1). */
const BEARER = /^bearer +([\w.~+/-]+=*)$/i;
const OTHER_SCHEME = /^(?!bearer(?: |$))[\w!#$%&'*+.^`|~-]+(?: |$)/i;

/**
 * The API key of a request, from `Authorization: Bearer` or `X-API-Key`; undefined without one. Other schemes are
 * ignored: they may be for a proxy. Repeated or empty headers and two different keys are `malformed`, rather than
 * guessed at.
 * @returns the unverified key
 */
export function presentedKey({
  rawHeaders,
}: Pick<IncomingMessage, 'rawHeaders'>): string | undefined | 'malformed' {
  let authorization: string | undefined;
  let apiKey: string | undefined;
  // `headers` keeps only the first Authorization, and `headersDistinct` parses all header fields.
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? '';
    const value = rawHeaders[i + 1] ?? '';
    if (name.length === 13 && name.toLowerCase() === 'authorization') {
      if (authorization !== undefined) return 'malformed';
      authorization = value;
    } else if (name.length === 9 && name.toLowerCase() === 'x-api-key') {
      if (apiKey !== undefined) return 'malformed';
      apiKey = value;
    }
  }
  if (apiKey === '') return 'malformed';
  if (authorization === undefined || OTHER_SCHEME.test(authorization)) return apiKey;
  const bearer = BEARER.exec(authorization)?.[1];
  if (bearer === undefined) return 'malformed';
  return apiKey === undefined || apiKey === bearer ? bearer : 'malformed';
}
