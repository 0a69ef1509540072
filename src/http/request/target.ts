/** What a request target comes to: a path to route by, a path to go to instead, or a refusal. */
export type Target =
  | { readonly kind: 'route'; readonly url: string }
  | { readonly kind: 'redirect'; readonly location: string }
  | { readonly kind: 'bad'; readonly detail: string };

const ABSOLUTE = /^https?:\/\/[^/?#]*/i;
/** Most targets are plain: nothing below needs to look at them. */
const PLAIN = /^(?:\/[\w-]+)+(?:\?[\w=&.-]*)?$/;
const DOT_SEGMENT = /(?:^|\/)(?:\.|%2e){1,2}(?=\/|$)/i;
const ENCODED_TRAP = /%(?:2f|5c|00)|\\/i;
const TRAILING = /(?:\/|%20| )+$/;

const bad = (detail: string): Target => ({ kind: 'bad', detail });

function decodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

function printableAscii(text: string): boolean {
  return /^[\x20-\x7e]*$/.test(text);
}

/**
 * One form for every spelling of a path, so that whatever guards a route sees the path that the router sees.
 * A redirect always stays on this server: its location begins with exactly one slash.
 */
export function readTarget(raw: string): Target {
  if (PLAIN.test(raw)) return { kind: 'route', url: raw };
  // Absolute form (RFC 9112, 3.2.2): the authority says nothing about which route is meant.
  const target = raw.replace(ABSOLUTE, '');
  const mark = target.indexOf('?');
  const path = mark < 0 ? target : target.slice(0, mark);
  const query = mark < 0 ? '' : target.slice(mark);
  if (path !== '' && !path.startsWith('/')) return bad('The path must begin with a slash');
  if (!printableAscii(target)) return bad('The path must be ASCII, other characters percent-encoded');
  if (!decodable(path)) return bad('The path has a malformed percent-encoding');
  if (!decodable(query)) return bad('The query has a malformed percent-encoding');
  if (ENCODED_TRAP.test(path)) return bad('The path must not contain a backslash, nor %2f, %5c or %00');
  const clean = path.replace(TRAILING, '').replace(/\/{2,}/g, '/') || '/';
  // After the cleaning: `/..%20` is one of them too.
  if (DOT_SEGMENT.test(clean)) return bad('The path must not contain the segments . and ..');
  // Only a path that people could have meant is worth a redirect; a lone "?" or an absolute form is just routed.
  if (clean !== (path || '/')) return { kind: 'redirect', location: clean + query };
  return { kind: 'route', url: clean + query };
}
