import type { Request } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { StreamService } from '../../services/chat/streams.ts';
import type { ReplyStream } from '../../services/chat/turn.ts';
import { callerOf } from '../access/caller.ts';
import { readQuery } from '../request/query.ts';
import { check } from '../request/validate.ts';
import { pathOf, problemOf, sendJson } from '../response/problem.ts';
import type { ReplyRenderer } from '../response/reply-renderer.ts';
import type { Route } from '../route.ts';
import { jsonBody, problems } from '../schemas/openapi.ts';
import { lastEventHeader, stopped, streamId, streamQuery } from '../schemas/streams.ts';
import { type ReadPosition, readPosition } from '../sse/encode.ts';
import { type SessionOptions, StreamSession, streamHeaders } from '../sse/session.ts';

export interface StreamRouteParts {
  readonly streams: StreamService;
  readonly renderer: ReplyRenderer;
  readonly stream: SessionOptions;
}

export function streamRoutes(parts: StreamRouteParts): Route[] {
  return [resumeRoute(parts), stopRoute(parts.streams)];
}

/** Where the reader is; the header, which EventSource sends by itself, counts more than the query. */
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
 * An end that the reader was told may have been too early: the process that makes the reply was taken for dead, or had
 * more of it than was stored when somebody stopped it through another one.
 */
function isFullyDelivered(
  { offset, ended }: ReadPosition,
  stream: ReplyStream,
  renderer: ReplyRenderer,
): boolean {
  return ended && !stream.reply.running && offset >= renderer.length(stream);
}

function resumeRoute({ streams, renderer, stream: options }: StreamRouteParts): Route {
  return {
    method: 'get',
    path: '/api/chat-stream/:id',
    access: 'chat',
    quotas: ['streams'],
    operation: {
      summary: 'Go on with a reply where its stream broke off',
      description:
        'The same events as the first time, from the character after the last event that the reader got, live or ' +
        'from the store, on any worker, after a restart too. Without a position: from the beginning.',
      tags: ['chat'],
      requestParams: { path: streamId, query: streamQuery, header: lastEventHeader },
      responses: {
        200: {
          description: 'The rest of the stream; its `start` says in `offset` where it goes on',
          headers: {
            'X-Conversation-Id': { schema: { type: 'string', format: 'uuid' } },
            'X-Stream-Id': { schema: { type: 'string', format: 'uuid' } },
          },
          content: { 'text/event-stream': { schema: { type: 'string' } } },
        },
        204: { description: 'The reader has everything, the last event included' },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(streamId, request.params);
      const position = positionOf(request, id);
      const { offset: from } = position;
      const stream = await streams.open(id, callerOf(response).access);
      const complete = isFullyDelivered(position, stream, renderer);
      if (complete || request.method === 'HEAD') {
        stream.release();
        response.writeHead(complete ? 204 : 200, complete ? {} : streamHeaders(stream));
        response.end();
        return;
      }
      const { format } = stream;
      const reading = {
        stream,
        format,
        shown: renderer.stream(stream.reply, format),
        from,
        resumed: true,
        cache: undefined,
        cached: false,
      };
      const session = new StreamSession(response, reading, options, (error) =>
        problemOf(error, pathOf(request), response.locals.requestId),
      );
      await session.run();
    },
  };
}

function stopRoute(streams: StreamService): Route {
  return {
    method: 'delete',
    path: '/api/chat-stream/:id',
    access: 'chat',
    operation: {
      summary: 'Stop a reply that is being made',
      description:
        'What was said so far is kept, marked `cancelled`. After the end of the reply it changes nothing and says so.',
      tags: ['chat'],
      requestParams: { path: streamId },
      responses: {
        200: { description: 'It has ended, by this call or before', ...jsonBody(stopped) },
        ...problems(400, 404, 503),
      },
    },
    async handle(request, response) {
      const { id } = check(streamId, request.params);
      const report = await streams.stop(id, callerOf(response).access);
      sendJson(response, 200, {
        stream_id: id,
        conversation_id: report.conversationId,
        stopped: report.stopped,
        status: report.status,
      });
    },
  };
}
