import { ChatError, problemOf } from '../chat/problem.js';
import { request } from '../credentials.js';

const LIST_LIMIT = 40;
const MESSAGES_LIMIT = 50;
/** A list that comes later is of no use any more. */
const MODELS_MS = 2000;
const LIST = '/api/conversations';

export const pathOf = (id) => `${LIST}/${encodeURIComponent(id)}`;

/** The address of the page for a conversation, with the same API; undefined: for a new one. */
export function addressOf(id) {
  const api = new URLSearchParams(location.search).get('api');
  const query = new URLSearchParams({ ...(api && { api }), ...(id && { c: id }) });
  return query.size === 0 ? './' : `./?${query}`;
}

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

/** A conversation with its newest messages, or those before a cursor, oldest first. */
export async function readMessages(id, cursor, signal) {
  const query = new URLSearchParams({ order: 'desc', limit: MESSAGES_LIMIT, ...(cursor && { cursor }) });
  const page = await call(`${pathOf(id)}?${query}`, { signal });
  return { ...page, messages: page.messages.toReversed() };
}

/** The models of the model server. */
export const listModels = async () =>
  (await call('/v1/models', { signal: AbortSignal.timeout(MODELS_MS) })).data;

/** @param changes `title`, `pinned`, `system`, `model`, `parameters`; null clears */
export const updateConversation = (id, changes) => call(pathOf(id), { method: 'PATCH', body: changes });

/** @param feedback `rating` and `comment`; undefined removes it */
export const rateMessage = (id, feedback) =>
  call(`/api/messages/${id}/feedback`, { method: feedback ? 'PUT' : 'DELETE', body: feedback });

export const deleteConversation = (id) => call(pathOf(id), { method: 'DELETE' });
