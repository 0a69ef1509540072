import type { IncomingMessage } from 'node:http';

/** RFC 6750, 2.1; the scheme in any case (RFC 9110, 11.1). */
const BEARER = /^bearer +([\w.~+/-]+=*)$/i;
const OTHER_SCHEME = /^(?!bearer(?: |$))[\w!#$%&'*+.^`|~-]+(?: |$)/i;

/**
 * The API key that a request shows, by `Authorization: Bearer` or `X-API-Key`; undefined when it shows none. An
 * `Authorization` of another scheme is for somebody else, such as a proxy on the way. Either header twice, an empty
 * one, and two different keys are `malformed`: which one counts is nothing to guess at.
 * @returns unchecked text
 */
export function presentedKey({
  rawHeaders,
}: Pick<IncomingMessage, 'rawHeaders'>): string | undefined | 'malformed' {
  let authorization: string | undefined;
  let apiKey: string | undefined;
  // Not by `headers`, which keep only the first Authorization, nor by `headersDistinct`, which are made of all headers.
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
