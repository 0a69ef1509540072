import type { IncomingMessage } from 'node:http';
import type { CallContext, ModelReply } from '../../domain/chat/model.ts';
import { errorCode } from '../../domain/errors.ts';
import { connectionError, requestIdOf, UpstreamError } from '../errors.ts';
import type { AdaptedRequest } from '../request-form.ts';
import { runAttempt } from '../transport/attempt.ts';
import { decodedBody } from '../transport/body.ts';
import type { ModelServerClient } from '../transport/client.ts';
import { IdleTimeout } from '../transport/idle-timeout.ts';
import { type ReplyLimits, wireBytes } from './limits.ts';
import { ReplyReader, type ResponseDetails } from './reply-reader.ts';

/** A reply. `error` is set if its `finish_reason` is missing or unknown. */
interface Completed {
  readonly reply: ModelReply;
  readonly error?: UpstreamError;
}

/** One attempt at a whole reply within `timeoutMs`. Rejects with an UpstreamError, or the signal's reason. */
export function completeOnce(
  client: ModelServerClient,
  request: AdaptedRequest,
  limits: { readonly timeoutMs: number } & Pick<ReplyLimits, 'replyMaxBytes' | 'reasoningTags'>,
  signal: AbortSignal,
  context?: CallContext,
): Promise<Completed> {
  return runAttempt(signal, async (attempt) => {
    const late = () => attempt.stop(new UpstreamError('upstream_timeout', { reason: 'whole call' }));
    const timeout = new IdleTimeout(limits.timeoutMs, late);
    try {
      const response = await client.chat(request, false, attempt, context);
      const details = { status: response.statusCode, requestId: requestIdOf(response) };
      const text = await collect(response, wireBytes(limits.replyMaxBytes), details).catch(
        (error: unknown) => {
          attempt.closeConnection();
          throw error;
        },
      );
      const reader = new ReplyReader(request.model, limits.replyMaxBytes, limits.reasoningTags);
      const completed = replyOf(text, reader, details);
      const logprobs = reader.takeLogprobs();
      if (logprobs) context?.logprobs?.(logprobs);
      return completed;
    } finally {
      timeout.stop();
    }
  });
}

function collect(response: IncomingMessage, maxBytes: number, details: ResponseDetails): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const body = decodedBody(response);
    body.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= maxBytes) chunks.push(chunk);
      else reject(new UpstreamError('upstream_error', { ...details, reason: 'the response is too large' }));
    });
    body.on('end', () => resolve(Buffer.concat(chunks).toString('utf8')));
    body.on('error', (error) => {
      const reason = errorCode(error) ?? 'connection lost';
      if (error instanceof UpstreamError) reject(error);
      else if (size > 0) reject(new UpstreamError('upstream_incomplete', { ...details, reason }));
      else reject(connectionError(error));
    });
  });
}

function replyOf(body: string, reader: ReplyReader, details: ResponseDetails): Completed {
  reader.response = details;
  reader.feed(body);
  reader.end();
  const content = reader.takeText() + reader.takeRest();
  const reasoning = reader.takeReasoning() + reader.takeRestOfReasoning();
  const texts = { content, ...(reasoning !== '' && { reasoning }) };
  const { verdict, hasOutput } = reader;
  if (verdict instanceof UpstreamError) throw verdict;
  if (verdict === 'capped') {
    if (!hasOutput) throw reader.error('upstream_error', 'the response is too large');
    return { reply: { ...texts, ...reader.truncatedOutcome('length') } };
  }
  const outcome = reader.outcome();
  if (!(outcome instanceof UpstreamError)) return { reply: { ...texts, ...outcome } };
  // Only the `finish_reason` is missing or unknown, so the text is kept.
  if (outcome.error.code !== 'upstream_incomplete' || !hasOutput) throw outcome;
  return { reply: { ...texts, ...reader.truncatedOutcome('error') }, error: outcome };
}
