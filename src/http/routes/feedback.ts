import type { ConversationService } from '../../services/conversations/conversations.ts';
import { callerOf } from '../access/caller.ts';
import type { BodyReader } from '../request/body.ts';
import { check } from '../request/validate.ts';
import { sendJson } from '../response/problem.ts';
import type { Route } from '../route.ts';
import { pathId } from '../schemas/common.ts';
import { feedbackRequest, ratedMessage } from '../schemas/conversations.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';

const PATH = '/api/messages/:id/feedback';

/** The opinion of a person about a reply. */
export function feedbackRoutes(conversations: ConversationService, readBody: BodyReader): Route[] {
  return [
    {
      method: 'put',
      path: PATH,
      access: 'chat',
      operation: {
        summary: 'Rate a reply',
        description: 'Takes the place of an earlier rating.',
        tags: ['conversations'],
        requestParams: { path: pathId },
        requestBody: { required: true, ...jsonBody(feedbackRequest, { rating: 'up' }) },
        responses: {
          200: { description: 'The feedback', ...jsonBody(ratedMessage) },
          ...problems(400, 404, 413, 415, 503),
        },
      },
      async handle(request, response) {
        const { id } = check(pathId, request.params);
        const { rating, comment = null } = check(feedbackRequest, await readBody(request));
        await conversations.rate(id, callerOf(response).access, { rating, comment });
        sendJson(response, 200, { message_id: id, feedback: { rating, comment } });
      },
    },
    {
      method: 'delete',
      path: PATH,
      access: 'chat',
      operation: {
        summary: 'Remove the rating of a reply',
        tags: ['conversations'],
        requestParams: { path: pathId },
        responses: {
          200: { description: 'It has none', ...jsonBody(ratedMessage) },
          ...problems(400, 404, 503),
        },
      },
      async handle(request, response) {
        const { id } = check(pathId, request.params);
        await conversations.rate(id, callerOf(response).access, null);
        sendJson(response, 200, { message_id: id, feedback: null });
      },
    },
  ];
}
