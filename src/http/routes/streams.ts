import type { Request } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { Metrics } from '../../domain/metrics.ts';
import type { StreamService } from '../../services/chat/streams.ts';
import type { Turn } from '../../services/chat/turn.ts';
import { callerOf } from '../access/caller.ts';
import { readQuery } from '../request/query.ts';
import { check } from '../request/validate.ts';
import { closeSignal } from '../response/close-signal.ts';
import { sendJson } from '../response/problem.ts';
import type { ReplyRenderer } from '../response/reply-renderer.ts';
import type { Route } from '../route.ts';
import { pathId } from '../schemas/common.ts';
import { eventStream, jsonBody, problems, STREAM_HEADERS } from '../schemas/openapi.ts';
import { lastEventHeader, replyEvents, stopped, streamQuery } from '../schemas/streams.ts';
import { type ReadPosition, readPosition, streamHeaders } from '../sse/encode.ts';
import { NativeStream } from '../sse/native-stream.ts';
import { type SessionSettings, StreamSession } from '../sse/session.ts';

export interface StreamRouteParts {
  readonly streams: StreamService;
  readonly renderer: ReplyRenderer;
  readonly session: SessionSettings;
  readonly metrics: Pick<Metrics, 'streamResumed' | 'streamStopped'>;
}

export function streamRoutes(parts: StreamRouteParts): Route[] {
  return [resumeRoute(parts), stopRoute(parts)];
}

/** The reader's position. The header, which EventSource sends itself, takes precedence over the query. */
function positionOf(request: Request, id: string): ReadPosition {
  const { last_event_id } = readQuery(request, streamQuery);
  const header = request.headersDistinct['last-event-id'];
  const sent = header ?? (last_event_id === undefined ? undefined : [last_event_id]);
  if (sent === undefined) return { offset: 0, ended: false };
  const position = sent.length === 1 ? readPosition(id, sent[0] ?? '') : undefined;
  if (position) return position;
  const path = header ? 'Last-Event-ID' : 'last_event_id';
  const message = 'must be the id of an event of this stream, such as <stream_id>:57';
  throw new AppError('validation', `${path} ${message}`, { errors: [{ path, message }] });
}

/**
 * Whether the reader has the whole reply. Its last event alone does not prove that: the lease of the generating worker
 * may have expired too early, or another worker may have stopped the reply before all of it was stored.
 */
async function isFullyDelivered(
  { offset, ended }: ReadPosition,
  stream: Turn,
  renderer: ReplyRenderer,
  signal: AbortSignal,
): Promise<boolean> {
  return ended && !stream.reply.running && offset >= (await renderer.length(stream, signal));
}

function resumeRoute({ streams, renderer, session, metrics }: StreamRouteParts): Route {
  return {
    method: 'get',
    path: '/api/chat-stream/:id',
    access: 'chat',
    quotas: ['streams'],
    operation: {
      summary: 'Resume a stream',
      description:
        'The same events, from the character after the last event received, live or from the store, on any worker ' +
        'and after a restart. Without a position the stream starts from the beginning. The reasoning is sent again ' +
        'where the turn asked for it and the reader has no text yet.',
      tags: ['chat'],
      requestParams: { path: pathId, query: streamQuery, header: lastEventHeader },
      responses: {
        200: {
          description: 'The rest of the stream; `offset` in its `start` event is the position',
          headers: STREAM_HEADERS,
          ...eventStream(replyEvents),
        },
        204: { description: 'The reader has the whole stream, including the last event' },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      const position = positionOf(request, id);
      const stream = await streams.open(id, callerOf(response).access);
      const isComplete = await isFullyDelivered(position, stream, renderer, closeSignal(response)).catch(
        (error: unknown) => {
          stream.release();
          throw error;
        },
      );
      if (isComplete || request.method === 'HEAD') {
        stream.release();
        response.writeHead(isComplete ? 204 : 200, isComplete ? {} : streamHeaders(stream));
        response.end();
        return;
      }
      const options = {
        stream,
        rendered: renderer.stream(stream.reply, stream.format),
        reasoning: renderer.reasoningStream(stream, position.offset),
        offset: position.offset,
        resumed: true,
        cache: undefined,
        cached: false,
      };
      metrics.streamResumed();
      const form = new NativeStream(response, options);
      await new StreamSession(response, stream, form, options.resumed, session).run();
    },
  };
}

function stopRoute({ streams, metrics }: StreamRouteParts): Route {
  return {
    method: 'delete',
    path: '/api/chat-stream/:id',
    access: 'chat',
    operation: {
      summary: 'Stop a reply',
      description:
        'The text so far is kept with the status `cancelled`. A reply that has ended stays unchanged.',
      tags: ['chat'],
      requestParams: { path: pathId },
      responses: {
        200: { description: 'The reply has ended, by this call or before', ...jsonBody(stopped) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(pathId, request.params);
      const report = await streams.stop(id, callerOf(response).access);
      if (report.stopped) metrics.streamStopped();
      sendJson(response, 200, {
        stream_id: id,
        conversation_id: report.conversationId,
        stopped: report.stopped,
        status: report.status,
      });
    },
  };
}
