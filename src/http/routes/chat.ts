import type { TextFormat } from '../../domain/ports.ts';
import type { ChatService } from '../../services/chat.ts';
import type { createBodyReader } from '../body.ts';
import { presentCacheUse, presentReply } from '../presenters.ts';
import { pathOf, problemOf, sendJson } from '../problem.ts';
import type { Route } from '../route.ts';
import { type ChatRequest, chatReply, chatRequest } from '../schemas/chat.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';
import { type SessionOptions, StreamSession } from '../sse/session.ts';
import { check } from '../validate.ts';

export interface ChatRouteParts {
  readonly chat: ChatService;
  readonly text: TextFormat;
  readonly readBody: ReturnType<typeof createBodyReader>;
  readonly messageMaxChars: number;
  readonly stream: SessionOptions;
}

function inputOf(body: ChatRequest) {
  return {
    message: body.message,
    conversationId: body.conversation_id,
    model: body.model,
    cache: body.cache ?? true,
  };
}

const FAULTS = problems(400, 413, 415, 502, 503, 504);

export function chatRoutes(parts: ChatRouteParts): Route[] {
  const schema = chatRequest(parts.messageMaxChars);
  return [chatRoute(parts, schema), streamRoute(parts, schema)];
}

function chatRoute(parts: ChatRouteParts, schema: ReturnType<typeof chatRequest>): Route {
  return {
    method: 'post',
    path: '/api/chat',
    operation: {
      summary: 'Ask, and get the whole reply',
      description:
        'The question and the reply are stored before the answer leaves. `format` is `markdown` unless said.',
      tags: ['chat'],
      requestBody: { required: true, ...jsonBody(schema) },
      responses: {
        200: {
          description: 'The reply',
          headers: {
            'Cache-Status': {
              description: 'RFC 9211: what the response cache did',
              schema: { type: 'string' },
            },
          },
          ...jsonBody(chatReply),
        },
        ...FAULTS,
      },
    },
    async handle(request, response) {
      const body = check(schema, await parts.readBody(request));
      const turn = await parts.chat.begin(inputOf(body), 'whole');
      response.setHeader('Cache-Status', presentCacheUse(turn.cache));
      const result = await turn.result;
      const format = body.format ?? 'markdown';
      const shown = format === 'text' ? parts.text.whole(result.content) : result.content;
      sendJson(response, 200, presentReply(turn, result, format, shown));
    },
  };
}

function streamRoute(parts: ChatRouteParts, schema: ReturnType<typeof chatRequest>): Route {
  return {
    method: 'post',
    path: '/api/chat-stream',
    operation: {
      summary: 'Ask, and read the reply as it is made',
      description:
        'Server-sent events: `start`, then data events whose `content` joined is the reply, then one `done` or `error`. ' +
        'The stream goes on to be made and saved when the reader leaves. `format` is `text` unless said.',
      tags: ['chat'],
      requestBody: { required: true, ...jsonBody(schema) },
      responses: {
        200: {
          description: 'The stream',
          headers: {
            'X-Conversation-Id': { schema: { type: 'string', format: 'uuid' } },
            'X-Stream-Id': { schema: { type: 'string', format: 'uuid' } },
            'Cache-Status': { schema: { type: 'string' } },
          },
          content: { 'text/event-stream': { schema: { type: 'string' } } },
        },
        ...FAULTS,
      },
    },
    async handle(request, response) {
      const body = check(schema, await parts.readBody(request));
      const turn = await parts.chat.begin(inputOf(body), 'stream');
      const format = body.format ?? 'text';
      const text = format === 'text' ? parts.text.stream() : undefined;
      const session = new StreamSession(response, turn, format, text, parts.stream, (error) =>
        problemOf(error, pathOf(request), response.locals.requestId),
      );
      await session.run();
    },
  };
}
