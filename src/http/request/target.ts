/** How to handle a request target: route its path, redirect to the normalized path, or reject it. */
export type Target =
  | { readonly kind: 'route'; readonly url: string }
  | { readonly kind: 'redirect'; readonly location: string }
  | { readonly kind: 'bad'; readonly detail: string };

const ABSOLUTE = /^https?:\/\/[^/?#]*/i;
/** Most targets need no normalization. */
const PLAIN = /^(?:\/[\w-]+)+(?:\?[\w=&.-]*)?$/;
/** Below it, a `%2F` belongs to the id of a model. */
const MODELS = '/v1/models/';
const DOT_SEGMENT = /(?:^|\/)(?:\.|%2e){1,2}(?=\/|$)/i;
const ENCODED_TRAP = /%(?:2f|5c|00)|\\/i;
const ENCODED_TRAP_IN_ID = /%(?:5c|00)|\\/i;
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
 * Normalizes a path, so that access checks see the path that the router sees. A redirect stays on this server: its
 * location begins with exactly one slash.
 */
export function readTarget(raw: string): Target {
  if (PLAIN.test(raw)) return { kind: 'route', url: raw };
  // The authority of an absolute form (RFC 9112, 3.2.2) does not select the route.
  const target = raw.replace(ABSOLUTE, '');
  const mark = target.indexOf('?');
  const path = mark < 0 ? target : target.slice(0, mark);
  const query = mark < 0 ? '' : target.slice(mark);
  if (path !== '' && !path.startsWith('/')) return bad('The path must begin with a slash');
  if (!printableAscii(target)) return bad('The path must be ASCII; percent-encode other characters');
  if (!decodable(path)) return bad('The percent-encoding of the path must be valid');
  if (!decodable(query)) return bad('The percent-encoding of the query must be valid');
  const trap = path.startsWith(MODELS) ? ENCODED_TRAP_IN_ID : ENCODED_TRAP;
  if (trap.test(path)) return bad('The path must not contain a backslash, %2f, %5c or %00');
  const clean = path.replace(TRAILING, '').replace(/\/{2,}/g, '/') || '/';
  // After the cleaning, which turns `/..%20` into a dot segment.
  if (DOT_SEGMENT.test(clean)) return bad('The path must not contain the segments "." and ".."');
  // A lone "?" and an absolute form are routed without a redirect.
  if (clean !== (path || '/')) return { kind: 'redirect', location: clean + query };
  return { kind: 'route', url: clean + query };
}
