/** Settings that are URLs. */
import { resolve } from 'node:path';
import { urlToHttpOptions } from 'node:url';
import { refusal, setting } from './readers.ts';

export type DatabaseTarget =
  | { readonly kind: 'sqlite'; readonly file: string }
  | { readonly kind: 'mysql'; readonly url: string };

/** Undefined unless the text is such a URL with a host and without blanks. */
function parseUrl(text: string, schemes: RegExp): URL | undefined {
  const url = /\s/.test(text) ? null : URL.parse(text);
  return url && schemes.test(url.protocol) && url.hostname !== '' ? url : undefined;
}

/** The user or password has a character that ends it in a URL. */
function isCutOff(text: string): boolean {
  const [, place = ''] = /^[^/]*\/\/(.*?)(?:\?\w+=.*)?$/s.exec(text) ?? [];
  return /[/?#].*@/s.test(place);
}

const ENCODE = refusal('has a #, / or ? in its user or password: percent-encode it (%23, %2F, %3F)');
const FRAGMENT = refusal('has a fragment (#…): remove it, or percent-encode the # as %23');

/** Of an endpoint, not of the API. */
const ENDPOINT = /\/(?:chat\/completions|completions|responses|embeddings)\/*$/i;

/** Without `/` at the end of its path. */
export const baseUrl = () =>
  setting('an http:// or https:// URL', (text) => {
    const url = parseUrl(text, /^https?:$/);
    if (!url || !canBeSent(url)) return undefined;
    if (url.hash !== '' || text.includes('#')) return FRAGMENT;
    const isEndpoint = ENDPOINT.test(url.pathname);
    url.pathname = url.pathname.replace(ENDPOINT, '').replace(/\/+$/, '');
    const base = url.pathname === '/' ? url.href.replace(/\/(?=$|\?)/, '') : url.href;
    return isEndpoint ? refusal(`must end before the endpoint: ${withoutSecrets(base)}`) : base;
  });

/** A malformed percent-encoding of the user or password would fail each request. */
function canBeSent(url: URL): boolean {
  try {
    urlToHttpOptions(url);
    return true;
  } catch {
    return false;
  }
}

export const databaseTarget = () =>
  setting('sqlite:<file> or mysql://user:password@host:3306/database', (text) => {
    if (/^postgres(ql)?[:+]/i.test(text)) {
      return refusal(
        'names PostgreSQL, which is not supported: use sqlite:<file> or mysql://user:password@host:3306/database',
      );
    }
    if (/^sqlite:/i.test(text)) return sqliteTarget(text);
    if (isCutOff(text)) return ENCODE;
    const url = parseUrl(text, /^(mysql|mariadb):$/);
    if (url && url.hash !== '') return FRAGMENT;
    return url && url.pathname.length > 1 ? ({ kind: 'mysql', url: text } as const) : undefined;
  });

/** `sqlite:file`, `sqlite://file` and `sqlite:///absolute/file`: what follows the scheme is a path as it is. */
function sqliteTarget(text: string) {
  const path = text.replace(/^sqlite:(\/\/)?/i, '').replace(/^\/(?=[a-z]:[\\/])/i, '');
  if (path === '' || path === ':memory:' || path.startsWith('file:')) {
    return refusal('must name a file: sqlite:data/chat.sqlite');
  }
  return { kind: 'sqlite', file: resolve(path) } as const;
}

export const smtpUrl = () =>
  setting('smtp://user:password@host:587 or smtps://user:password@host:465', (text) => {
    if (isCutOff(text)) return ENCODE;
    const url = parseUrl(text, /^smtps?:$/);
    return url && url.hash !== '' ? FRAGMENT : url && text;
  });

export const redisUrl = () =>
  setting('redis://user:password@host:6379/0 or rediss://…', (text) => {
    if (isCutOff(text)) return ENCODE;
    const url = parseUrl(text, /^rediss?:$/);
    if (url && url.hash !== '') return FRAGMENT;
    return url && /^\/?\d*$/.test(url.pathname) ? text : undefined;
  });

export const origins = () =>
  setting('* or origins such as https://chat.example.com, separated by commas', (text) => {
    if (text === '*') return '*' as const;
    const list = text.split(',').map((part) => part.trim());
    return list.every((part) => URL.parse(part)?.origin === part) ? list : undefined;
  });

/** For logs and errors: hides user, password and the values of parameters, in what is nearly a URL too. */
export function withoutSecrets(text: string): string {
  const url = URL.parse(text);
  if (url && url.hostname !== '') {
    const user = url.username + url.password === '' ? '' : '***@';
    const search = url.search.replace(/=[^&]*/g, '=***');
    const path = url.pathname === '/' && !text.includes('/', text.indexOf('//') + 2) ? '' : url.pathname;
    return `${url.protocol}//${user}${url.host}${path}${search}${url.hash === '' ? '' : '#***'}`;
  }
  return text
    .replace(/^([a-z][a-z\d+.-]*:?\/+)?.*@/is, '$1***@')
    .replace(/([?&][^=&#]*=)[^&#]*/g, '$1***')
    .replace(/#.*/s, '#***');
}
