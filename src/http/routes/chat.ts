import type { Request, Response } from 'express';
import type { ReplyFormat } from '../../domain/conversation.ts';
import type { ChatInput, ChatService } from '../../services/chat/chat.ts';
import type { Turn } from '../../services/chat/turn.ts';
import { type Caller, callerOf } from '../access/caller.ts';
import type { Quotas } from '../access/quotas.ts';
import type { BodyReader } from '../request/body.ts';
import { idempotencyKey } from '../request/idempotency.ts';
import { check } from '../request/validate.ts';
import { presentCacheUse, presentReply } from '../response/presenters.ts';
import { pathOf, problemOf, sendJson } from '../response/problem.ts';
import type { ReplyRenderer } from '../response/reply-renderer.ts';
import type { Route } from '../route.ts';
import { type ChatRequest, chatReply, chatRequest } from '../schemas/chat.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';
import { idempotencyHeader } from '../schemas/streams.ts';
import { readPosition } from '../sse/encode.ts';
import { type SessionOptions, StreamSession } from '../sse/session.ts';

export interface ChatRouteParts {
  readonly chat: ChatService;
  readonly renderer: ReplyRenderer;
  readonly readBody: BodyReader;
  readonly quotas: Quotas;
  readonly messageMaxChars: number;
  readonly stream: SessionOptions;
}

function inputOf(body: ChatRequest, format: ReplyFormat, { access }: Caller): ChatInput {
  return {
    message: body.message,
    conversationId: body.conversation_id,
    format: body.format ?? format,
    model: body.model,
    cache: body.cache ?? true,
    access,
  };
}

/** A repeated request is told so; what the response cache did once is no news then. */
function tellCacheUse(response: Response, { cache, replayed }: Turn): void {
  if (replayed) response.setHeader('Idempotent-Replayed', 'true');
  else if (cache) response.setHeader('Cache-Status', presentCacheUse(cache));
}

const REPLAYED = {
  'Idempotent-Replayed': {
    description: '`true`: an earlier request with the same Idempotency-Key asked this',
    schema: { type: 'string' },
  },
} as const;

const FAULTS = problems(400, 404, 413, 415, 422, 502, 503, 504);

export function chatRoutes(parts: ChatRouteParts): Route[] {
  const schema = chatRequest(parts.messageMaxChars);
  return [chatRoute(parts, schema), streamRoute(parts, schema)];
}

function chatRoute(parts: ChatRouteParts, schema: ReturnType<typeof chatRequest>): Route {
  return {
    method: 'post',
    path: '/api/chat',
    access: 'chat',
    quotas: ['tokens'],
    operation: {
      summary: 'Ask, and get the whole reply',
      description:
        'The question and the reply are stored before the answer leaves. `format` is `markdown` unless said.',
      tags: ['chat'],
      requestParams: { header: idempotencyHeader },
      requestBody: { required: true, ...jsonBody(schema) },
      responses: {
        200: {
          description: 'The reply',
          headers: {
            ...REPLAYED,
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
      const caller = callerOf(response);
      const input = inputOf(body, 'markdown', caller);
      const turn = await parts.chat.begin(input, 'whole', idempotencyKey(request, input));
      parts.quotas.meter(caller.subject, input.message, turn);
      const result = await turn.result.finally(() => turn.release());
      // Not before: a refusal would tell by it whether the conversation is somebody's.
      tellCacheUse(response, turn);
      const { format } = input;
      const shown = parts.renderer.whole(turn.reply, format, result.content);
      sendJson(response, 200, presentReply(turn, result, format, shown));
    },
  };
}

/**
 * What a client that repeats its request has of the stream: some send the id of the last event along. One of another
 * stream says nothing.
 */
function resumeOffset(request: Request, streamId: string): number {
  return readPosition(streamId, request.get('last-event-id') ?? '')?.offset ?? 0;
}

function streamRoute(parts: ChatRouteParts, schema: ReturnType<typeof chatRequest>): Route {
  return {
    method: 'post',
    path: '/api/chat-stream',
    access: 'chat',
    quotas: ['tokens', 'streams'],
    operation: {
      summary: 'Ask, and read the reply as it is made',
      description:
        'Server-sent events: `start`, then data events whose `content` joined is the reply, then one `done` or `error`. ' +
        'The stream goes on to be made and saved when the reader leaves. `format` is `text` unless said.',
      tags: ['chat'],
      requestParams: { header: idempotencyHeader },
      requestBody: { required: true, ...jsonBody(schema) },
      responses: {
        200: {
          description: 'The stream',
          headers: {
            'X-Conversation-Id': { schema: { type: 'string', format: 'uuid' } },
            'X-Stream-Id': { schema: { type: 'string', format: 'uuid' } },
            'Cache-Status': { schema: { type: 'string' } },
            ...REPLAYED,
          },
          content: { 'text/event-stream': { schema: { type: 'string' } } },
        },
        ...FAULTS,
      },
    },
    async handle(request, response) {
      const body = check(schema, await parts.readBody(request));
      const caller = callerOf(response);
      const input = inputOf(body, 'text', caller);
      const turn = await parts.chat.begin(input, 'stream', idempotencyKey(request, input));
      parts.quotas.meter(caller.subject, input.message, turn);
      const { format } = input;
      const shown = parts.renderer.stream(turn.reply, format);
      const { cached, replayed } = turn;
      const cache = replayed ? undefined : turn.cache;
      const from = replayed ? resumeOffset(request, turn.messageId) : 0;
      const reading = { stream: turn, format, shown, from, resumed: !turn.cache || from > 0, cache, cached };
      if (replayed) tellCacheUse(response, turn);
      const session = new StreamSession(response, reading, parts.stream, (error) =>
        problemOf(error, pathOf(request), response.locals.requestId),
      );
      await session.run();
    },
  };
}
