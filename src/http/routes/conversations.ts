import type { ConversationService } from '../../services/conversations/conversations.ts';
import { callerOf } from '../access/caller.ts';
import { readQuery } from '../request/query.ts';
import { check } from '../request/validate.ts';
import { presentConversation, presentList } from '../response/presenters.ts';
import { sendJson } from '../response/problem.ts';
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

export function conversationRoutes(conversations: ConversationService): Route[] {
  return [listRoute(conversations), getRoute(conversations), deleteRoute(conversations)];
}

function listRoute(conversations: ConversationService): Route {
  return {
    method: 'get',
    path: '/api/conversations',
    access: 'read',
    operation: {
      summary: 'List conversations, most recently active first',
      tags: ['conversations'],
      requestParams: { query: listQuery },
      responses: { 200: { description: 'A page', ...jsonBody(conversationList) }, ...problems(400, 503) },
    },
    async handle(request, response) {
      const { limit, cursor } = readQuery(request, listQuery);
      const { access } = callerOf(response);
      sendJson(response, 200, presentList(await conversations.list(access, limit, cursor ?? null)));
    },
  };
}

function getRoute(conversations: ConversationService): Route {
  return {
    method: 'get',
    path: '/api/conversations/:id',
    access: 'read',
    operation: {
      summary: 'Get a conversation, oldest message first',
      description: 'A page ends at `limit` messages or at about 4 MiB of content, whichever comes first.',
      tags: ['conversations'],
      requestParams: { path: conversationId, query: conversationQuery },
      responses: {
        200: { description: 'A page of messages', ...jsonBody(conversation) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(conversationId, request.params);
      const { limit, cursor } = readQuery(request, conversationQuery);
      const { access } = callerOf(response);
      const page = await conversations.get(id, access, cursor ?? 0, limit);
      sendJson(response, 200, presentConversation(page));
    },
  };
}

function deleteRoute(conversations: ConversationService): Route {
  return {
    method: 'delete',
    path: '/api/conversations/:id',
    access: 'chat',
    operation: {
      summary: 'Delete a conversation with its messages',
      description: 'A reply in progress is not stored any more.',
      tags: ['conversations'],
      requestParams: { path: conversationId },
      responses: {
        200: { description: 'The conversation is deleted', ...jsonBody(deleted) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(conversationId, request.params);
      await conversations.delete(id, callerOf(response).access);
      sendJson(response, 200, { conversation_id: id, deleted: true });
    },
  };
}
