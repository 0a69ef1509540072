/** The API key of this tab, for a server that asks for one, and the requests that carry it. */
const STORED = 'api-key';
/** What can stand behind `Bearer` (RFC 6750). */
const POSSIBLE = /^[\w.~+/-]+=*$/;

let key = stored();

/** Of every answer an event `answer`, with `{ path, status, seconds, keyed }`: `seconds` is its Retry-After. */
export const answers = new EventTarget();

function stored() {
  try {
    return sessionStorage.getItem(STORED) ?? undefined;
  } catch {
    // Storage is forbidden here: a key lasts as long as the page.
    return undefined;
  }
}

export function isPossible(text) {
  return POSSIBLE.test(text);
}

export function currentKey() {
  return key;
}

/** Keeps a key until the tab is closed; undefined forgets it. */
export function keepKey(value) {
  key = value;
  try {
    if (value === undefined) sessionStorage.removeItem(STORED);
    else sessionStorage.setItem(STORED, value);
  } catch {
    // As above.
  }
}

/** `fetch` of a path on this server, with the key if there is one. A key that is refused is not shown again. */
export async function ask(path, options = {}) {
  const sent = key;
  const headers = { ...options.headers, ...(sent === undefined ? {} : { authorization: `Bearer ${sent}` }) };
  const response = await fetch(path, { ...options, headers });
  const { status } = response;
  // What was sent with another key than the one that is now there says nothing of this one.
  if (sent !== key) return response;
  if (status === 401) keepKey(undefined);
  const seconds = Number(response.headers.get('retry-after') ?? 0);
  const detail = { path, status, seconds, keyed: sent !== undefined };
  answers.dispatchEvent(new CustomEvent('answer', { detail }));
  return response;
}
