import type { Response } from 'express';
import { type AppError, type ErrorCode, errorCode } from '../../domain/errors.ts';
import type { Turn, TurnResult } from '../../services/chat/turn.ts';

/** What the request line of the log says about the outcome. */
export interface RequestDetails {
  code?: ErrorCode;
  /** Name and code of the underlying error. */
  cause?: string | undefined;
  /** An error without a public meaning; logged with its stack. */
  err?: unknown;
  conversation_id?: string;
  model?: string;
  cache?: string | undefined;
  prompt_tokens?: number | undefined;
  completion_tokens?: number | undefined;
  /** On the monotonic clock; logged as the time since the request. */
  firstTokenAt?: number | undefined;
}

/** Adds to the request line of the log. */
export function noteDetails({ locals }: Response, details: RequestDetails): void {
  locals.details = locals.details ? Object.assign(locals.details, details) : details;
}

/** Notes the error that the response ends with: an unexpected one with its stack. */
export function noteError(response: Response, error: AppError): void {
  const { code } = error;
  noteDetails(
    response,
    code === 'internal' ? { code, err: error.cause ?? error } : { code, cause: causeOf(error) },
  );
}

/** Only the name and code of the cause: messages of drivers and upstreams can quote data. */
function causeOf({ cause }: AppError): string | undefined {
  if (!(cause instanceof Error)) return undefined;
  const code = errorCode(cause);
  return code === undefined ? cause.name : `${cause.name} ${code}`;
}

/** Notes a turn. Only the request that called the model has its tokens, so that they can be summed. */
export function noteTurn(response: Response, turn: Turn, result?: TurnResult, firstTokenAt?: number): void {
  const cache = turn.replayed ? 'replay' : turn.cache?.kind;
  const usage = cache === 'miss' || cache === 'bypass' ? result?.usage : undefined;
  noteDetails(response, {
    ...(turn.isStored && { conversation_id: turn.conversationId }),
    model: result?.model ?? turn.model,
    cache,
    prompt_tokens: usage?.prompt_tokens,
    completion_tokens: usage?.completion_tokens,
    firstTokenAt,
  });
}
