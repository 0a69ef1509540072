import { startChat } from './chat/chat.js';
import { request } from './credentials.js';
import { watchHealth } from './health.js';
import { initialLanguage, setLanguage, setText, translate } from './i18n.js';
import { startKeyPanel } from './key-panel.js';
import { isDocsInPlace, replaceByDocs, startLinks } from './links.js';

const COPIED_MS = 2000;

let keyHeader = '';

function curl(path, flags) {
  const body = JSON.stringify({ message: translate('hello') });
  return `curl ${flags} ${location.origin}${path} \\\n${keyHeader}  -H 'content-type: application/json' \\\n  -d '${body}'`;
}

function showCommands() {
  document.getElementById('whole').textContent = curl('/api/chat', '-s');
  document.getElementById('stream').textContent = curl('/api/chat-stream', '-sN');
}

function useLanguage(language, keep) {
  setLanguage(language, keep);
  showCommands();
  for (const button of document.querySelectorAll('[data-language]')) {
    button.setAttribute('aria-pressed', String(button.dataset.language === language));
  }
}

/** The clipboard API needs HTTPS or localhost. `execCommand` works elsewhere. */
async function copy(element) {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
  const selection = getSelection();
  selection.selectAllChildren(element);
  document.execCommand('copy');
  selection.removeAllRanges();
}

function startCopyButtons() {
  for (const button of document.querySelectorAll('[data-copy]')) {
    let timer;
    button.addEventListener('click', async () => {
      await copy(document.getElementById(button.dataset.copy));
      setText(button, 'copied');
      clearTimeout(timer);
      timer = setTimeout(() => setText(button, 'copy'), COPIED_MS);
    });
  }
}

function startLanguages() {
  useLanguage(initialLanguage(), false);
  for (const button of document.querySelectorAll('[data-language]')) {
    button.addEventListener('click', () => useLanguage(button.dataset.language, true));
  }
}

async function start() {
  startLanguages();
  let chat;
  let health;
  // Before the first request, whose response can be that a key is required.
  startKeyPanel({
    async onKeySet() {
      // Any valid key opens it; /health/ready ignores an invalid one.
      await request('/docs', { method: 'HEAD', cache: 'no-store' });
      await health.refresh();
    },
    onKeyAccepted() {
      // The docs replace the page while it loads.
      if (isDocsInPlace()) location.reload();
      else chat.focus();
    },
    onKeyRemoved() {
      chat.renew();
      void health.refresh();
    },
    onKeyRequired() {
      keyHeader = "  -H 'authorization: Bearer ck_…' \\\n";
      showCommands();
    },
  });
  if (await replaceByDocs()) return;
  startCopyButtons();
  startLinks();
  chat = startChat();
  health = watchHealth();
}

await start();
