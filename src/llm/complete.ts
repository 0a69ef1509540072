import type { IncomingMessage } from 'node:http';
import type { ModelReply, ModelRequest } from '../domain/chat/model.ts';
import { errorCode } from '../domain/errors.ts';
import { connectionError, requestIdOf, UpstreamError } from './errors.ts';
import { wireBytes } from './limits.ts';
import { ReplyText } from './reply-text.ts';
import {
  finishReason,
  firstChoice,
  modelName,
  parseObject,
  reportsError,
  textOf,
  usageOf,
} from './shapes.ts';
import { runAttempt } from './transport/attempt.ts';
import type { ModelServerClient } from './transport/client.ts';
import { IdleTimeout } from './transport/idle-timeout.ts';

/** One attempt at a whole reply within `timeoutMs`. Rejects with an UpstreamError, or the signal's reason. */
export function completeOnce(
  client: ModelServerClient,
  request: ModelRequest,
  limits: { readonly timeoutMs: number; readonly replyMaxBytes: number },
  signal: AbortSignal,
): Promise<ModelReply> {
  return runAttempt(signal, async (attempt) => {
    const late = () => attempt.stop(new UpstreamError('upstream_timeout', { reason: 'whole call' }));
    const timeout = new IdleTimeout(limits.timeoutMs, late);
    try {
      const response = await client.chat(request, false, attempt);
      const details = { status: response.statusCode, requestId: requestIdOf(response) };
      const text = await collect(response, wireBytes(limits.replyMaxBytes), details).catch(
        (error: unknown) => {
          attempt.closeConnection();
          throw error;
        },
      );
      return replyOf(text, request.model, limits.replyMaxBytes, details);
    } finally {
      timeout.stop();
    }
  });
}

interface ResponseDetails {
  readonly status: number | undefined;
  readonly requestId: string | undefined;
}

function collect(response: IncomingMessage, maxBytes: number, details: ResponseDetails): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    response.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= maxBytes) chunks.push(chunk);
      else reject(new UpstreamError('upstream_error', { ...details, reason: 'the response is too large' }));
    });
    response.on('end', () => resolve(Buffer.concat(chunks).toString('utf8')));
    response.on('error', (error) => {
      const reason = errorCode(error) ?? 'connection lost';
      if (size > 0) reject(new UpstreamError('upstream_incomplete', { ...details, reason }));
      else reject(connectionError(error));
    });
  });
}

function replyOf(
  body: string,
  requestedModel: string,
  maxBytes: number,
  details: ResponseDetails,
): ModelReply {
  const object = parseObject(body);
  if (!object) throw new UpstreamError('upstream_error', { ...details, reason: 'the response is not JSON' });
  const choice = firstChoice(object);
  if (reportsError(object, choice)) {
    throw new UpstreamError('upstream_error', { ...details, reason: 'error inside the response' });
  }
  const text = new ReplyText(maxBytes);
  const content = text.take(textOf(choice?.message, 'content')) + text.rest();
  const reason = finishReason(choice);
  if (choice && !reason) {
    throw new UpstreamError('upstream_incomplete', { ...details, reason: 'no finish_reason' });
  }
  if (!reason || (content === '' && reason !== 'content_filter')) {
    throw new UpstreamError('upstream_empty', { ...details, reason: 'no content' });
  }
  return {
    content,
    finishReason: text.truncated ? 'length' : reason,
    usage: usageOf(object),
    model: modelName(object) ?? requestedModel,
    truncated: text.truncated,
  };
}
