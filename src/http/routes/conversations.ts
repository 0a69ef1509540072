import type { ConversationService } from '../../services/conversations.ts';
import { presentConversation, presentList } from '../presenters.ts';
import { sendJson } from '../problem.ts';
import { readQuery } from '../query.ts';
import type { Route } from '../route.ts';
import {
  conversation,
  conversationId,
  conversationList,
  conversationQuery,
  deleted,
  listQuery,
} from '../schemas/conversations.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';
import { check } from '../validate.ts';

export function conversationRoutes(conversations: ConversationService): Route[] {
  return [listRoute(conversations), getRoute(conversations), deleteRoute(conversations)];
}

function listRoute(conversations: ConversationService): Route {
  return {
    method: 'get',
    path: '/api/conversations',
    operation: {
      summary: 'List conversations, the last active first',
      tags: ['conversations'],
      requestParams: { query: listQuery },
      responses: { 200: { description: 'A page', ...jsonBody(conversationList) }, ...problems(400, 503) },
    },
    async handle(request, response) {
      const { limit, cursor } = readQuery(request, listQuery);
      sendJson(response, 200, presentList(await conversations.list(limit, cursor ?? null)));
    },
  };
}

function getRoute(conversations: ConversationService): Route {
  return {
    method: 'get',
    path: '/api/conversations/:id',
    operation: {
      summary: 'Read a conversation, oldest message first',
      tags: ['conversations'],
      requestParams: { path: conversationId, query: conversationQuery },
      responses: {
        200: { description: 'A page of it', ...jsonBody(conversation) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(conversationId, request.params);
      const { limit, cursor } = readQuery(request, conversationQuery);
      sendJson(response, 200, presentConversation(await conversations.get(id, cursor ?? 0, limit)));
    },
  };
}

function deleteRoute(conversations: ConversationService): Route {
  return {
    method: 'delete',
    path: '/api/conversations/:id',
    operation: {
      summary: 'Delete a conversation with its messages',
      description: 'Nothing brings it back, not even a reply that is still being made.',
      tags: ['conversations'],
      requestParams: { path: conversationId },
      responses: { 200: { description: 'It is gone', ...jsonBody(deleted) }, ...problems(400, 404, 503) },
    },
    async handle(request, response) {
      const { id } = check(conversationId, request.params);
      await conversations.delete(id);
      sendJson(response, 200, { conversation_id: id, deleted: true });
    },
  };
}
