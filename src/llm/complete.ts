import type { IncomingMessage } from 'node:http';
import type { ModelReply, ModelRequest } from '../domain/model.ts';
import { requestIdOf, UpstreamError } from './errors.ts';
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
import { connectionError, sendRequest, systemCode } from './transport/send-request.ts';

/** One attempt at a whole reply within `timeoutMs`. Rejects with an UpstreamFault, or the signal's reason. */
export function completeOnce(
  client: ModelServerClient,
  request: ModelRequest,
  limits: { readonly timeoutMs: number; readonly replyMaxBytes: number },
  signal: AbortSignal,
): Promise<ModelReply> {
  return runAttempt(signal, async (attempt) => {
    const late = () => attempt.stop(new UpstreamError('upstream_timeout', { reason: 'whole call' }));
    const watch = new IdleTimeout(limits.timeoutMs, late);
    try {
      const answer = await sendRequest(attempt, (sent) => client.chat(request, false, sent));
      const about = { status: answer.statusCode, requestId: requestIdOf(answer) };
      const text = await collect(answer, wireBytes(limits.replyMaxBytes), about).catch((error: unknown) => {
        attempt.closeConnection();
        throw error;
      });
      return replyOf(text, request.model, limits.replyMaxBytes, about);
    } finally {
      watch.stop();
    }
  });
}

interface About {
  readonly status: number | undefined;
  readonly requestId: string | undefined;
}

function collect(answer: IncomingMessage, maxBytes: number, about: About): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    answer.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= maxBytes) chunks.push(chunk);
      else reject(new UpstreamError('upstream_error', { ...about, reason: 'the answer is too large' }));
    });
    answer.on('end', () => resolve(Buffer.concat(chunks).toString('utf8')));
    answer.on('error', (error) => {
      const reason = systemCode(error) ?? 'connection lost';
      if (size > 0) reject(new UpstreamError('upstream_incomplete', { ...about, reason }));
      else reject(connectionError(error));
    });
  });
}

function replyOf(body: string, requestedModel: string, maxBytes: number, about: About): ModelReply {
  const object = parseObject(body);
  if (!object) throw new UpstreamError('upstream_error', { ...about, reason: 'the answer is not JSON' });
  const choice = firstChoice(object);
  if (reportsError(object, choice)) {
    throw new UpstreamError('upstream_error', { ...about, reason: 'error inside the answer' });
  }
  const text = new ReplyText(maxBytes);
  const content = text.take(textOf(choice?.message, 'content')) + text.rest();
  const reason = finishReason(choice);
  if (choice && !reason) {
    throw new UpstreamError('upstream_incomplete', { ...about, reason: 'no finish_reason' });
  }
  if (!reason || (content === '' && reason !== 'content_filter')) {
    throw new UpstreamError('upstream_empty', { ...about, reason: 'no content' });
  }
  return {
    content,
    finishReason: text.truncated ? 'length' : reason,
    usage: usageOf(object),
    model: modelName(object) ?? requestedModel,
    truncated: text.truncated,
  };
}
