import { currentKey, request, urlOf } from './credentials.js';

/** The home page with the policy of Swagger UI, where it replaces itself by /docs. */
const DOCS_IN_PLACE = './?docs';

export function isDocsInPlace() {
  return new URLSearchParams(location.search).has('docs');
}
/** The key panel shows these. */
const KEY_ERRORS = [401, 403, 429];

/** Opens a path that needs a key, which the browser does not send for a link. */
async function open(path) {
  const keyed = currentKey() !== undefined;
  const response = await request(path, { method: keyed ? 'GET' : 'HEAD' }).catch(() => undefined);
  if (response && KEY_ERRORS.includes(response.status)) return;
  if (!response || !keyed) location.assign(urlOf(path));
  else if (path === '/docs' && response.ok) location.assign(DOCS_IN_PLACE);
  else location.assign(URL.createObjectURL(await response.blob()));
}

export function startLinks() {
  document.addEventListener('click', (event) => {
    const link = event.target.closest('a[data-keyed]');
    const opensElsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
    if (!link || opensElsewhere) return;
    event.preventDefault();
    // Without the point of urlOf.
    void open(link.getAttribute('href').slice(1));
  });
}

/**
 * Replaces this page by /docs at DOCS_IN_PLACE, where there is a key.
 * @returns whether the page was replaced
 */
export async function replaceByDocs() {
  if (currentKey() === undefined || !isDocsInPlace()) return false;
  document.body.hidden = true;
  const response = await request('/docs').catch(() => undefined);
  if (!response?.ok) {
    document.body.hidden = false;
    return false;
  }
  const html = await response.text();
  document.open();
  document.write(html);
  document.close();
  return true;
}
