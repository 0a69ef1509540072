import type { Request, Response } from 'express';
import type { ReplyFormat } from '../../domain/conversations/conversation.ts';
import type { ChatService } from '../../services/chat/chat.ts';
import { type ChatInput, type ChatQuestion, questionText } from '../../services/chat/request/chat-input.ts';
import type { Turn } from '../../services/chat/turn.ts';
import { hashedPart } from '../../util/image-digest.ts';
import { type Caller, callerOf } from '../access/caller.ts';
import type { Quotas } from '../access/quotas.ts';
import type { BodyReader } from '../request/body.ts';
import { idempotencyKey } from '../request/idempotency.ts';
import { checkImages } from '../request/images.ts';
import { check } from '../request/validate.ts';
import { presentCacheUse, presentReply, presentTiming } from '../response/presenters.ts';
import { sendJson } from '../response/problem.ts';
import type { ReplyRenderer } from '../response/reply-renderer.ts';
import { noteTurn } from '../response/request-details.ts';
import type { Route } from '../route.ts';
import { type ChatLimits, type ChatRequest, chatReply, chatRequest, ignoredNames } from '../schemas/chat.ts';
import { eventStream, jsonBody, problems, STREAM_HEADERS, UPSTREAM_HEADER } from '../schemas/openapi.ts';
import { contentParts, textOfParts } from '../schemas/parts.ts';
import { idempotencyHeader, replyEvents } from '../schemas/streams.ts';
import { readPosition } from '../sse/encode.ts';
import { NativeStream } from '../sse/native-stream.ts';
import { type SessionSettings, StreamSession } from '../sse/session.ts';

export interface ChatRouteParts {
  readonly chat: ChatService;
  readonly renderer: ReplyRenderer;
  readonly readBody: BodyReader;
  readonly quotas: Quotas;
  readonly limits: ChatLimits;
  readonly session: SessionSettings;
}

/** @throws AppError `validation` for an image that is none */
async function inputOf(body: ChatRequest, format: ReplyFormat, { access }: Caller): Promise<ChatInput> {
  const { system, parameters, user, metadata } = body;
  return {
    question: await questionOf(body),
    conversationId: body.conversation_id,
    format: body.format ?? format,
    model: body.model,
    cache: body.cache ?? true,
    ...(system !== undefined && { system }),
    ...(parameters !== undefined && { parameters }),
    ...(user !== undefined && { user }),
    ...(metadata !== undefined && { metadata }),
    wantsReasoning: body.reasoning ?? false,
    access,
  };
}

async function questionOf({
  message = '',
  tool_results,
  regenerate,
  edit,
}: ChatRequest): Promise<ChatQuestion> {
  if (regenerate !== undefined) return { kind: 'regenerate', of: regenerate };
  if (tool_results) {
    const results = tool_results.map(({ tool_call_id, content }) => ({ toolCallId: tool_call_id, content }));
    return { kind: 'tools', results };
  }
  const asked = await contentOf(message);
  return edit === undefined ? { kind: 'message', ...asked } : { kind: 'edit', of: edit, ...asked };
}

async function contentOf(message: NonNullable<ChatRequest['message']>) {
  if (typeof message === 'string') return { content: message };
  const parts = contentParts(message);
  await checkImages(parts);
  const content = textOfParts(parts);
  const isText = parts.length === 1 && parts[0]?.type === 'text';
  return { content, ...(!isText && { parts }) };
}

/** Covers the whole body. What a body leaves out is not part of it, so that it stays the same in later versions. */
function keyOf(request: Request, { access, question, wantsReasoning, ...others }: ChatInput) {
  return idempotencyKey(request, access, () => {
    const { kind, ...about } = question;
    const parts = 'parts' in question ? question.parts?.map(hashedPart) : undefined;
    const message = kind === 'message' ? (parts ?? question.content) : undefined;
    const asked = kind === 'message' ? {} : { kind, ...about, ...(parts && { parts }) };
    const more = { ...asked, ...(wantsReasoning && { wantsReasoning }) };
    return { message, ...others, ...more };
  });
}

/** A replayed turn has `Idempotent-Replayed` in place of the `Cache-Status` of the original request. */
function setReplayHeaders(response: Response, { cache, replayed }: Turn): void {
  if (replayed) response.setHeader('Idempotent-Replayed', 'true');
  else if (cache) response.setHeader('Cache-Status', presentCacheUse(cache));
}

const EXAMPLE = { message: 'Hello' };

const TURN_HEADERS = {
  'Idempotent-Replayed': {
    description: '`true`: the turn of an earlier request with the same Idempotency-Key',
    schema: { type: 'string' },
  },
  'Cache-Status': { description: 'RFC 9211, of the response cache', schema: { type: 'string' } },
  ...UPSTREAM_HEADER,
} as const;

const ERRORS = problems(400, 404, 409, 413, 415, 422, 502, 503, 504);

export function chatRoutes(parts: ChatRouteParts): Route[] {
  const schema = chatRequest(parts.limits);
  return [chatRoute(parts, schema), streamRoute(parts, schema)];
}

function chatRoute(parts: ChatRouteParts, schema: ReturnType<typeof chatRequest>): Route {
  return {
    method: 'post',
    path: '/api/chat',
    access: 'chat',
    reportsQuery: true,
    quotas: ['tokens'],
    operation: {
      summary: 'Send a message and get the whole reply',
      description: 'The turn is stored before the response is sent. The default `format` is `markdown`.',
      tags: ['chat'],
      requestParams: { header: idempotencyHeader },
      requestBody: { required: true, ...jsonBody(schema, EXAMPLE) },
      responses: {
        200: {
          description: 'The reply',
          headers: {
            ...TURN_HEADERS,
            'Server-Timing': {
              description: 'Where the time of the turn went',
              schema: { type: 'string' },
            },
          },
          ...jsonBody(chatReply),
        },
        ...ERRORS,
      },
    },
    async handle(request, response) {
      const sent = await parts.readBody(request);
      const caller = callerOf(response);
      const input = await inputOf(check(schema, sent), 'markdown', caller);
      const ignored = ignoredNames(schema, sent, request.url);
      const { receivedAt } = response.locals;
      const turn = await parts.chat.begin(input, 'whole', keyOf(request, input), receivedAt);
      parts.quotas.meter(caller.subject, questionText(input.question), turn);
      noteTurn(response, turn);
      const result = await turn.result.finally(() => turn.release());
      noteTurn(response, turn, result);
      // After the result: on an error the header would reveal whether the conversation exists.
      setReplayHeaders(response, turn);
      const timing = presentTiming(turn);
      if (timing !== undefined) response.setHeader('Server-Timing', timing);
      const { upstream } = turn.reply.generation;
      if (upstream !== undefined) response.setHeader('X-Upstream', upstream);
      const rendered = await parts.renderer.whole(turn.reply, turn.format, result.content);
      const reasoning = turn.wantsReasoning
        ? await parts.renderer.reasoning(turn.reply, result.reasoning)
        : undefined;
      sendJson(response, 200, { ...presentReply(turn, result, rendered), reasoning, ignored });
    },
  };
}

/** Some clients repeat the POST with the id of the last event. The id of another stream is ignored. */
function resumeOffset(request: Request, streamId: string): number {
  return readPosition(streamId, request.get('last-event-id') ?? '')?.offset ?? 0;
}

function streamRoute(parts: ChatRouteParts, schema: ReturnType<typeof chatRequest>): Route {
  return {
    method: 'post',
    path: '/api/chat-stream',
    access: 'chat',
    reportsQuery: true,
    quotas: ['tokens', 'streams'],
    operation: {
      summary: 'Send a message and stream the reply',
      description:
        'Server-sent events: `start`, then data events whose joined `content` is the reply, then one `done` or `error`. ' +
        'With `reasoning` the model’s reasoning comes in `reasoning` events before them. ' +
        'The reply is generated and saved even when the reader leaves. The default `format` is `text`.',
      tags: ['chat'],
      requestParams: { header: idempotencyHeader },
      requestBody: { required: true, ...jsonBody(schema, EXAMPLE) },
      responses: {
        200: {
          description: 'The stream',
          headers: {
            ...STREAM_HEADERS,
            ...TURN_HEADERS,
          },
          ...eventStream(replyEvents),
        },
        ...ERRORS,
      },
    },
    async handle(request, response) {
      const sent = await parts.readBody(request);
      const caller = callerOf(response);
      const input = await inputOf(check(schema, sent), 'text', caller);
      const ignored = ignoredNames(schema, sent, request.url);
      const { receivedAt } = response.locals;
      const turn = await parts.chat.begin(input, 'stream', keyOf(request, input), receivedAt);
      parts.quotas.meter(caller.subject, questionText(input.question), turn);
      const { cached, replayed } = turn;
      if (replayed) setReplayHeaders(response, turn);
      const offset = replayed ? resumeOffset(request, turn.messageId) : 0;
      const options = {
        stream: turn,
        rendered: parts.renderer.stream(turn.reply, turn.format),
        reasoning: parts.renderer.reasoningStream(turn, offset),
        offset,
        resumed: !turn.cache || offset > 0,
        cache: replayed ? undefined : turn.cache,
        cached,
        ignored,
      };
      const form = new NativeStream(response, options);
      await new StreamSession(response, turn, form, options.resumed, parts.session).run();
    },
  };
}
