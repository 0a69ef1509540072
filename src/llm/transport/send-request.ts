import type { IncomingMessage } from 'node:http';
import { classifyResponse, UpstreamError } from '../errors.ts';
import type { Attempt } from './attempt.ts';

/** Sends a request and resolves with an answer whose body is a reply. Rejects with an UpstreamFault. */
export async function sendRequest(
  attempt: Attempt,
  send: (signal: AbortSignal) => Promise<IncomingMessage>,
): Promise<IncomingMessage> {
  const answer = await send(attempt.signal).catch(async (error: unknown) => {
    throw await classifySendError(error);
  });
  const fault = classifyResponse(answer) ?? encodingError(answer);
  if (!fault) return answer;
  attempt.drainResponse(answer);
  throw fault;
}

async function classifySendError(error: unknown): Promise<UpstreamError> {
  const { isConnectionError } = await import('./client.ts');
  if (isConnectionError(error)) return connectionError(error.cause);
  return new UpstreamError('upstream_error', { reason: 'the request could not be made' });
}

/** The connection failed before the reply had begun. */
export function connectionError(cause: unknown): UpstreamError {
  return new UpstreamError('upstream_error', {
    detail: 'The connection to the model server failed.',
    reason: systemCode(cause) ?? 'connection failed',
    retryable: true,
  });
}

/** The system's code for an error, such as ECONNREFUSED; its message may name more than the log should. */
export function systemCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** Nothing else was asked for, and nothing else could be read. */
function encodingError(answer: IncomingMessage): UpstreamError | undefined {
  const encoding = answer.headers['content-encoding'] ?? 'identity';
  if (encoding === 'identity') return undefined;
  return new UpstreamError('upstream_error', { reason: 'the answer is compressed' });
}
