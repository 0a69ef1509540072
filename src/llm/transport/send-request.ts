import type { IncomingMessage } from 'node:http';
import { faultOfHead, UpstreamFault } from '../errors.ts';
import type { Attempt } from './attempt.ts';
import { isConnectionError } from './client.ts';

/** Sends a request and resolves with an answer whose body is a reply. Rejects with an UpstreamFault. */
export async function openAnswer(
  attempt: Attempt,
  send: (signal: AbortSignal) => Promise<IncomingMessage>,
): Promise<IncomingMessage> {
  const answer = await send(attempt.signal).catch((error: unknown) => {
    throw faultOfSending(error);
  });
  const fault = faultOfHead(answer) ?? faultOfEncoding(answer);
  if (!fault) return answer;
  attempt.letRunOut(answer);
  throw fault;
}

function faultOfSending(error: unknown): UpstreamFault {
  if (isConnectionError(error)) return connectionFault(error.cause);
  return new UpstreamFault('upstream_error', { reason: 'the request could not be made' });
}

/** The connection failed before the reply had begun. */
export function connectionFault(cause: unknown): UpstreamFault {
  return new UpstreamFault('upstream_error', {
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
function faultOfEncoding(answer: IncomingMessage): UpstreamFault | undefined {
  const encoding = answer.headers['content-encoding'] ?? 'identity';
  if (encoding === 'identity') return undefined;
  return new UpstreamFault('upstream_error', { reason: 'the answer is compressed' });
}
