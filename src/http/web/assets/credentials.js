/** The API key of this tab, and requests with it. */
const STORED = 'api-key';
/** The syntax of a bearer token (RFC 6750). */
const TOKEN = /^[\w.~+/-]+=*$/;

let key = stored();

/** Emits `response` for every response, with `{ path, status, seconds, keyed, began }`. `seconds` is its Retry-After. */
export const responses = new EventTarget();

function stored() {
  try {
    return sessionStorage.getItem(STORED) ?? undefined;
  } catch {
    // Storage is not allowed. The key lasts as long as the page.
    return undefined;
  }
}

export function isToken(text) {
  return TOKEN.test(text);
}

export function currentKey() {
  return key;
}

/** Stores a key until the tab is closed; undefined removes it. */
export function setKey(value) {
  key = value;
  try {
    if (value === undefined) sessionStorage.removeItem(STORED);
    else sessionStorage.setItem(STORED, value);
  } catch {
    // As in stored().
  }
}

/** The address of a path of this server, which a proxy can have below a prefix. All pages are at its top. */
export const urlOf = (path) => `.${path}`;

/** Fetches a path of this server with the key. A rejected key is removed. */
export async function request(path, options = {}) {
  const sent = key;
  const began = performance.now();
  const headers = { ...options.headers, ...(sent === undefined ? {} : { authorization: `Bearer ${sent}` }) };
  const response = await fetch(urlOf(path), { ...options, headers });
  const { status } = response;
  // The response to a replaced key says nothing about the current one.
  if (sent !== key) return response;
  if (status === 401) setKey(undefined);
  const seconds = Number(response.headers.get('retry-after') ?? 0);
  const detail = { path, status, seconds, keyed: sent !== undefined, began };
  responses.dispatchEvent(new CustomEvent('response', { detail }));
  return response;
}
