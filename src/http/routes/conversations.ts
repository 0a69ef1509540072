import type { ConversationService } from '../../services/conversations/conversations.ts';
import type { ForkService } from '../../services/conversations/forks.ts';
import { callerOf } from '../access/caller.ts';
import type { BodyReader } from '../request/body.ts';
import { readQuery } from '../request/query.ts';
import { check } from '../request/validate.ts';
import { presentConversation, presentList, presentListed } from '../response/presenters.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { pathId } from '../schemas/common.ts';
import {
  conversation,
  conversationList,
  conversationPatch,
  conversationQuery,
  deleted,
  forkRequest,
  listedConversation,
  listQuery,
  newConversation,
  type SettingsLimits,
} from '../schemas/conversations.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';

interface ConversationRouteParts {
  readonly conversations: ConversationService;
  readonly forks: ForkService;
  readonly readBody: BodyReader;
  readonly limits: SettingsLimits;
}

export function conversationRoutes(parts: ConversationRouteParts): Route[] {
  const { conversations } = parts;
  return [
    listRoute(conversations),
    createRoute(parts),
    getRoute(conversations),
    updateRoute(parts),
    deleteRoute(conversations),
    forkRoute(parts),
  ];
}

function listRoute(conversations: ConversationService): Route {
  return {
    method: 'get',
    path: '/api/conversations',
    access: 'read',
    operation: {
      summary: 'List conversations, most recently active first',
      description: 'A page ends at `limit` conversations or at about 4 MiB of settings.',
      tags: ['conversations'],
      requestParams: { query: listQuery },
      responses: { 200: { description: 'A page', ...jsonBody(conversationList) }, ...problems(400, 503) },
    },
    async handle(request, response) {
      const { limit, cursor = null, q, ...filter } = readQuery(request, listQuery);
      const { access } = callerOf(response);
      const page =
        q === undefined
          ? await conversations.list(access, limit, cursor, filter)
          : await conversations.search(access, q, limit, cursor, filter);
      sendJson(response, 200, presentList(page));
    },
  };
}

function createRoute({ conversations, readBody, limits }: ConversationRouteParts): Route {
  const schema = newConversation(limits);
  return {
    method: 'post',
    path: '/api/conversations',
    access: 'chat',
    operation: {
      summary: 'Create an empty conversation',
      description: 'Its settings apply to every turn that does not name others.',
      tags: ['conversations'],
      requestBody: { required: true, ...jsonBody(schema, { title: 'Trip to Kyoto' }) },
      responses: {
        201: {
          description: 'The conversation',
          headers: { Location: { description: 'Its path', schema: { type: 'string' } } },
          ...jsonBody(listedConversation),
        },
        ...problems(400, 413, 415, 503),
      },
    },
    async handle(request, response) {
      const settings = check(schema, await readBody(request));
      const view = await conversations.create(callerOf(response).access, settings);
      response.setHeader('Location', `/api/conversations/${view.id}`);
      sendJson(response, 201, presentListed(view));
    },
  };
}

function forkRoute({ conversations, forks, readBody }: ConversationRouteParts): Route {
  return {
    method: 'post',
    path: '/api/conversations/:id/fork',
    access: 'chat',
    operation: {
      summary: 'Copy a conversation, or its beginning',
      description:
        'The copy has the visible messages up to and including `message_id`, with ids of their own, and the settings. ' +
        'It is not pinned, and has no feedback.',
      tags: ['conversations'],
      requestParams: { path: pathId },
      requestBody: { required: true, ...jsonBody(forkRequest, { title: 'Another way' }) },
      responses: {
        201: {
          description: 'The new conversation',
          headers: { Location: { description: 'Its path', schema: { type: 'string' } } },
          ...jsonBody(listedConversation),
        },
        ...problems(400, 404, 409, 413, 415, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      const { message_id: messageId, title } = check(forkRequest, await readBody(request));
      const { access } = callerOf(response);
      const view = await conversations.view(await forks.fork(id, access, { messageId, title }), access);
      response.setHeader('Location', `/api/conversations/${view.id}`);
      sendJson(response, 201, presentListed(view));
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
      description:
        'A page ends at `limit` messages or at about 4 MiB of text and images, whichever comes first.',
      tags: ['conversations'],
      requestParams: { path: pathId, query: conversationQuery },
      responses: {
        200: { description: 'A page of messages', ...jsonBody(conversation) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      const { limit, cursor, order, include } = readQuery(request, conversationQuery);
      const page = await conversations.get(id, callerOf(response).access, {
        after: cursor ?? 0,
        limit,
        newestFirst: order === 'desc',
        superseded: include === 'superseded',
      });
      sendJson(response, 200, presentConversation(page));
    },
  };
}

function updateRoute({ conversations, readBody, limits }: ConversationRouteParts): Route {
  const schema = conversationPatch(limits);
  return {
    method: 'patch',
    path: '/api/conversations/:id',
    access: 'chat',
    operation: {
      summary: 'Change the title, the pin and the settings of a conversation',
      description:
        'Members that are left out stay; `null` clears. `metadata` and `parameters` are replaced whole.',
      tags: ['conversations'],
      requestParams: { path: pathId },
      requestBody: { required: true, ...jsonBody(schema, { title: 'Trip to Kyoto', pinned: true }) },
      responses: {
        200: { description: 'The conversation', ...jsonBody(listedConversation) },
        ...problems(400, 404, 413, 415, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      const changes = check(schema, await readBody(request));
      sendJson(
        response,
        200,
        presentListed(await conversations.update(id, callerOf(response).access, changes)),
      );
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
      requestParams: { path: pathId },
      responses: {
        200: { description: 'The conversation is deleted', ...jsonBody(deleted) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      await conversations.delete(id, callerOf(response).access);
      sendJson(response, 200, { conversation_id: id, deleted: true });
    },
  };
}
