import { startChat } from './chat/chat.js';
import { copyOnClick } from './chat/dom.js';
import { addressOf } from './conversations/api.js';
import { startList } from './conversations/list.js';
import { request, urlOf } from './credentials.js';
import { watchHealth } from './health.js';
import { initialLanguage, setLanguage, setText, translate } from './i18n.js';
import { hasAccess, startKeyPanel } from './key-panel.js';
import { isDocsInPlace, replaceByDocs, startLinks } from './links.js';

const find = (id) => document.getElementById(id);

let keyHeader = '';

function curl(path, flags) {
  const body = JSON.stringify({ message: translate('hello') });
  return `curl ${flags} ${new URL(urlOf(path), location.href).href} \\\n${keyHeader}  -H 'content-type: application/json' \\\n  -d '${body}'`;
}

function showCommands() {
  find('whole').textContent = curl('/api/chat', '-s');
  find('stream').textContent = curl('/api/chat-stream', '-sN');
}

async function useLanguage(language, keep) {
  await setLanguage(language, keep);
  showCommands();
  for (const button of document.querySelectorAll('[data-language]')) {
    button.setAttribute('aria-pressed', String(button.dataset.language === language));
  }
}

function startCopyButtons() {
  for (const button of document.querySelectorAll('[data-copy]')) {
    copyOnClick(button, () => find(button.dataset.copy).textContent);
  }
}

async function startLanguages() {
  for (const button of document.querySelectorAll('[data-language]')) {
    button.addEventListener('click', () => useLanguage(button.dataset.language, true));
  }
  await useLanguage(initialLanguage(), false);
}

/** Each conversation has its own address. */
const currentId = () => new URLSearchParams(location.search).get('c') ?? undefined;

function setAddress(id) {
  if (id !== currentId()) history.pushState(null, '', addressOf(id));
}

function showTitle(title) {
  const heading = find('chat-title');
  if (title) {
    delete heading.dataset.t;
    heading.textContent = title;
  } else setText(heading, 'chat');
  document.title = title ? `${title} – Chat API` : 'Chat API';
}

/** The chat and the list of conversations, which show the same one, and the address, which names it. */
function startConversations(onConnectionLost) {
  const open = (id) => {
    showTitle(undefined);
    list.select(id);
    return chat.open(id);
  };
  const go = (id) => {
    setAddress(id);
    void open(id);
    chat.focus();
  };
  const chat = startChat({
    onTurn(conversation, isNew) {
      if (isNew) {
        setAddress(conversation.conversation_id);
        list.select(conversation.conversation_id);
        showTitle(conversation.title);
      }
      list.touch(conversation);
    },
    onRead: ({ title }) => showTitle(title),
    onConnectionLost,
  });
  const list = startList({
    onOpen: go,
    onSeen: (conversation) => chat.refresh(conversation),
    onRenamed: showTitle,
    onRemoved: (id) => id === currentId() && go(undefined),
  });
  find('renew').addEventListener('click', () => go(undefined));
  addEventListener('popstate', () => open(currentId()));
  // Without a key it would be refused.
  addEventListener('focus', () => hasAccess() && list.refresh());
  return {
    focus: () => chat.focus(),
    /** Loads what is shown, at the start and with another key. */
    load() {
      if (!chat.hasMessages) void open(currentId());
      void list.refresh();
    },
    forget() {
      list.clear();
      go(undefined);
    },
  };
}

async function start() {
  await startLanguages();
  let conversations;
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
      if (isDocsInPlace()) return location.reload();
      conversations.load();
      conversations.focus();
    },
    onKeyRemoved() {
      conversations.forget();
      find('key-input').focus();
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
  health = watchHealth();
  conversations = startConversations(() => health.refresh());
  if (hasAccess()) conversations.load();
}

await start();
