import { ChatError, problemOf } from '../chat/problem.js';
import { request } from '../credentials.js';

const LIST_LIMIT = 40;
const MESSAGES_LIMIT = 1000;
const LIST = '/api/conversations';

export const pathOf = (id) => `${LIST}/${encodeURIComponent(id)}`;

/** @throws ChatError `failed` or `unreachable` */
async function call(path, { body, ...options } = {}) {
  const content = body && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
  const response = await request(path, { cache: 'no-store', ...options, ...content }).catch((error) => {
    if (options.signal?.aborted) throw error;
    throw new ChatError('unreachable');
  });
  if (!response.ok) throw new ChatError('failed', await problemOf(response));
  return response.status === 204 ? undefined : response.json();
}

/** A page of the list: `{ conversations, has_more, next_cursor }`. */
export function listConversations(filter, signal) {
  const query = new URLSearchParams({ limit: LIST_LIMIT, ...filter });
  return call(`${LIST}?${query}`, { signal });
}

/** A conversation with all its messages, oldest first. */
export async function readConversation(id, signal) {
  const messages = [];
  for (let cursor; ; ) {
    const query = new URLSearchParams({ limit: MESSAGES_LIMIT, ...(cursor ? { cursor } : {}) });
    const page = await call(`${pathOf(id)}?${query}`, { signal });
    messages.push(...page.messages);
    if (!page.has_more) return { ...page, messages };
    cursor = page.next_cursor;
  }
}

/** @param changes `title`, `pinned`, `system`, `model`, `parameters`; null clears */
export const updateConversation = (id, changes) => call(pathOf(id), { method: 'PATCH', body: changes });

export const deleteConversation = (id) => call(pathOf(id), { method: 'DELETE' });
