import { startChat } from './chat.js';
import { watchHealth } from './health.js';
import { initialLanguage, say, setLanguage, words } from './i18n.js';

const COPIED_MS = 2000;

function curl(path, flags) {
  const body = JSON.stringify({ message: words('hello') });
  return `curl ${flags} ${location.origin}${path} \\\n  -H 'content-type: application/json' \\\n  -d '${body}'`;
}

function useLanguage(language, keep) {
  setLanguage(language, keep);
  document.getElementById('whole').textContent = curl('/api/chat', '-s');
  document.getElementById('stream').textContent = curl('/api/chat-stream', '-sN');
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

useLanguage(initialLanguage(), false);
for (const button of document.querySelectorAll('[data-language]')) {
  button.addEventListener('click', () => useLanguage(button.dataset.language, true));
}
startCopyButtons();
startChat();
watchHealth();
