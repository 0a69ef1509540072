import { ask, currentKey } from './credentials.js';

/** The home page under another policy: it writes /docs in its own place. */
const DOCS_IN_PLACE = '/?docs';
/** Of these the key panel says what is to be said. */
const SAID = [401, 403, 429];

/** Opens what needs a key: the browser by itself would send none with the click on a link. */
async function open(path) {
  const keyed = currentKey() !== undefined;
  const response = await ask(path, { method: keyed ? 'GET' : 'HEAD' }).catch(() => undefined);
  if (response && SAID.includes(response.status)) return;
  if (!response || !keyed) location.assign(path);
  else if (path === '/docs' && response.ok) location.assign(DOCS_IN_PLACE);
  else location.assign(URL.createObjectURL(await response.blob()));
}

export function startLinks() {
  document.addEventListener('click', (event) => {
    const link = event.target.closest('a[data-keyed]');
    const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
    if (!link || elsewhere) return;
    event.preventDefault();
    void open(link.getAttribute('href'));
  });
}

/**
 * Writes /docs in place of this page where that is asked for and there is a key for it.
 * @returns whether this page is no more
 */
export async function wroteDocs() {
  if (currentKey() === undefined || !new URLSearchParams(location.search).has('docs')) return false;
  document.body.hidden = true;
  const response = await ask('/docs', { headers: { accept: 'text/html' } }).catch(() => undefined);
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
