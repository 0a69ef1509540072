import type { Request, Response } from 'express';
import { conversationNotFound } from '../../domain/errors.ts';
import type { ChatService } from '../../services/chat/chat.ts';
import { type ChatInput, questionText } from '../../services/chat/request/chat-input.ts';
import type { StreamService } from '../../services/chat/streams.ts';
import type { Turn } from '../../services/chat/turn.ts';
import { type Caller, callerOf } from '../access/caller.ts';
import type { Quotas } from '../access/quotas.ts';
import type { BodyReader } from '../request/body.ts';
import { checkImages } from '../request/images.ts';
import { check } from '../request/validate.ts';
import { idHeaders, turnHeaders } from '../response/presenters.ts';
import { sendJson } from '../response/problem.ts';
import type { ReplyRenderer } from '../response/reply-renderer.ts';
import { noteTurn } from '../response/request-details.ts';
import type { Route } from '../route.ts';
import { uuid } from '../schemas/common.ts';
import { eventStream, jsonBody, STREAM_HEADERS, UPSTREAM_HEADER } from '../schemas/openapi.ts';
import { KNOWN } from '../schemas/parameters.ts';
import type { MessageLimits } from '../schemas/parts.ts';
import { type SessionSettings, StreamSession } from '../sse/session.ts';
import { ChunkStream } from './chunk-stream.ts';
import { clientMessage } from './messages.ts';
import { openAiErrors } from './openapi.ts';
import { presentCompletion, presentLogprobs } from './presenter.ts';
import { type CompletionRequest, completion, completionChunk, completionRequest } from './schemas.ts';

/** Settings of the routes below `/v1`. */
export interface V1Settings {
  /** Whether turns are stored, unless a call says otherwise. */
  readonly store: boolean;
  /** Whether a caller that disconnects cancels its call. */
  readonly cancelOnDisconnect: boolean;
  /** Whether the response cache is used. */
  readonly cache: boolean;
}

export interface CompletionParts {
  readonly chat: ChatService;
  readonly streams: Pick<StreamService, 'abandon'>;
  readonly renderer: ReplyRenderer;
  readonly readBody: BodyReader;
  readonly quotas: Quotas;
  readonly limits: MessageLimits;
  readonly session: SessionSettings;
  readonly v1: V1Settings;
}

/** Members that this server reads itself. All others are passed on to the model server unchanged. */
const OWN: ReadonlySet<string> = new Set([
  'messages',
  'model',
  'stream',
  'stream_options',
  'n',
  'store',
  'metadata',
  'user',
]);

function parametersOf(body: CompletionRequest): NonNullable<ChatInput['parameters']> {
  const sent = Object.entries(body).filter(([name, value]) => value !== undefined && !OWN.has(name));
  const known = Object.fromEntries(sent.filter(([name]) => Object.hasOwn(KNOWN, name)));
  const extra = Object.fromEntries(sent.filter(([name]) => !Object.hasOwn(KNOWN, name)));
  // OPENAI_MAX_TOKENS must not be sent as `max_tokens` beside the newer `max_completion_tokens` of the caller.
  const hasLimit = typeof extra.max_completion_tokens === 'number';
  return { ...(hasLimit && { max_tokens: null }), ...known, extra };
}

/** @throws AppError `validation` for an invalid image, `conversation_not_found` for a malformed conversation id */
async function inputOf(
  request: Request,
  body: CompletionRequest,
  v1: V1Settings,
  { access }: Caller,
): Promise<ChatInput> {
  const messages = body.messages.map(clientMessage);
  for (const [at, { parts }] of messages.entries()) {
    if (parts) await checkImages(parts, `messages.${at}.content`);
  }
  const isStored = v1.store && body.store !== false;
  return {
    question: { kind: 'message', content: messages.at(-1)?.content ?? '' },
    conversationId: isStored ? namedConversation(request) : undefined,
    format: 'markdown',
    model: body.model ?? undefined,
    cache: v1.cache,
    parameters: parametersOf(body),
    ...(body.user && { user: body.user }),
    ...(body.metadata && { metadata: body.metadata }),
    wantsReasoning: true,
    access,
    client: { messages, isStored },
  };
}

function namedConversation(request: Request): string | undefined {
  const sent = request.get('x-conversation-id');
  if (sent === undefined) return undefined;
  const parsed = uuid.safeParse(sent);
  if (!parsed.success) throw conversationNotFound();
  return parsed.data;
}

const EXAMPLE = { model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'Hello' }] };

export function completionRoute(parts: CompletionParts): Route {
  const schema = completionRequest(parts.limits);
  return {
    method: 'post',
    path: '/v1/chat/completions',
    access: 'chat',
    reportsQuery: true,
    quotas: ['tokens'],
    operation: {
      summary: 'Chat completion in the form of OpenAI',
      description:
        'The messages of the caller are the context. The turn is stored in the conversation that `X-Conversation-Id` ' +
        'names, else in the one that the messages continue, else in a new one; see `docs/openai.md`. With `stream` ' +
        'the response is a stream of `chat.completion.chunk` objects that `data: [DONE]` ends.',
      tags: ['openai'],
      requestBody: { required: true, ...jsonBody(schema, EXAMPLE) },
      responses: {
        200: {
          description: 'The reply',
          headers: { ...STREAM_HEADERS, ...UPSTREAM_HEADER },
          content: { ...jsonBody(completion).content, ...eventStream(completionChunk).content },
        },
        ...openAiErrors(400, 404, 413, 415, 422, 502, 503, 504),
      },
    },
    async handle(request, response) {
      const { v1, chat, quotas } = parts;
      const body = check(schema, await parts.readBody(request));
      const caller = callerOf(response);
      if (body.stream) await quotas.admitStream(response, caller);
      const input = await inputOf(request, body, v1, caller);
      const mode = body.stream ? 'stream' : 'whole';
      const turn = await chat.begin(input, mode, undefined, response.locals.receivedAt);
      quotas.meter(caller.subject, questionText(input.question), turn);
      try {
        if (body.stream)
          await streamReply(parts, response, turn, body.stream_options?.include_usage ?? false);
        else await sendReply(parts, response, turn);
      } catch (error) {
        await setIds(response, turn);
        throw error;
      }
    },
  };
}

/** Names a stored turn whose reply failed, so that the caller can repeat the call in its conversation. */
async function setIds(response: Response, turn: Turn): Promise<void> {
  const isStored = await turn.started.then(
    () => true,
    () => false,
  );
  if (isStored && !response.headersSent) setHeaders(response, idHeaders(turn));
}

function setHeaders(response: Response, headers: Record<string, string>): void {
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
}

async function sendReply(parts: CompletionParts, response: Response, turn: Turn): Promise<void> {
  const { renderer } = parts;
  noteTurn(response, turn);
  const leave = () => cancelUnread(parts, response, turn);
  if (response.closed) leave();
  else response.once('close', leave);
  const result = await turn.result.finally(() => turn.release());
  noteTurn(response, turn, result);
  setHeaders(response, turnHeaders(turn));
  const rendered = await renderer.whole(turn.reply, turn.format, result.content);
  const reasoning = await renderer.reasoning(turn.reply, result.reasoning);
  const logprobs = presentLogprobs(turn.reply, renderer.stream(turn.reply, turn.format) !== undefined);
  sendJson(response, 200, presentCompletion(turn, result, rendered, reasoning, logprobs));
}

async function streamReply(
  parts: CompletionParts,
  response: Response,
  turn: Turn,
  includesUsage: boolean,
): Promise<void> {
  const { renderer, session } = parts;
  const form = new ChunkStream(response, turn, renderer, includesUsage);
  try {
    await new StreamSession(response, turn, form, false, session).run();
  } finally {
    cancelUnread(parts, response, turn);
  }
}

/** Stops the reply if the caller has disconnected and the stream has no other reader. */
function cancelUnread({ streams, v1 }: CompletionParts, response: Response, turn: Turn): void {
  if (v1.cancelOnDisconnect && !response.writableEnded) void streams.abandon(turn);
}
