import { startChat } from './chat/chat.js';
import { watchHealth } from './health.js';
import { initialLanguage, say, setLanguage, words } from './i18n.js';
import { startKeyPanel } from './key-panel.js';
import { startLinks, wroteDocs } from './links.js';

const COPIED_MS = 2000;

let keyHeader = '';

function curl(path, flags) {
  const body = JSON.stringify({ message: words('hello') });
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

/** The clipboard needs HTTPS or localhost; elsewhere the old way still works. */
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
      say(button, 'copied');
      clearTimeout(timer);
      timer = setTimeout(() => say(button, 'copy'), COPIED_MS);
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
  // Before the first question to the server: its answer may be that it wants a key.
  startKeyPanel({
    check: () => health.refresh(),
    ready: () => chat.focus(),
    forgotten() {
      chat.renew();
      void health.refresh();
    },
    asked() {
      keyHeader = "  -H 'authorization: Bearer ck_…' \\\n";
      showCommands();
    },
  });
  if (await wroteDocs()) return;
  startCopyButtons();
  startLinks();
  chat = startChat();
  health = watchHealth();
}

await start();
