import type { ContextMessage, FinishReason, Usage } from '../conversations/conversation.ts';
import type { ModelParameters } from './parameters.ts';

/** A call to the model server. A cached reply belongs to one. */
export interface ModelRequest {
  readonly model: string;
  readonly messages: readonly ContextMessage[];
  readonly parameters: ModelParameters;
  /** The caller's end user. */
  readonly user?: string;
}

export interface ModelOutcome {
  readonly finishReason: FinishReason;
  readonly usage: Usage | null;
  /** The name in the response, else the requested one. */
  readonly model: string;
  /**
   * Not the whole reply, or not known to be: a limit of this server (bytes or time) cut it, and `finishReason` is
   * `length`; or the model server named no known reason for its end, and `finishReason` is `error`.
   */
  readonly truncated: boolean;
  /** How many messages were not sent, the oldest after the system prompt, because the context was too long. */
  readonly omitted?: number;
}

/** `refused`: it rejects the API key; `not_found`: it has no list of models at this address. */
export type ModelServerState = 'up' | 'refused' | 'not_found' | 'down';

export interface ModelReply extends ModelOutcome {
  readonly content: string;
}

/** What belongs to one call and not to its request, so that equal requests stay equal. */
export interface CallContext {
  /** Of the turn that makes the call. */
  readonly conversationId?: string;
  /** Sent along, such as `traceparent`. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Called when the request of an attempt is on its connection. */
  connected?(): void;
}

/**
 * Rejections are AppErrors: `upstream_error`, `upstream_rejected`, `upstream_busy` (with retryAfter),
 * `upstream_timeout`, `upstream_incomplete`, `upstream_empty`, `upstream_filtered`, `upstream_quota`. An abort by the signal rejects with its reason.
 */
export interface ChatModel {
  complete(request: ModelRequest, signal: AbortSignal, context?: CallContext): Promise<ModelReply>;
  /**
   * `onDelta` gets non-empty, well-formed pieces (no lone surrogate, no split pair) and must not throw. After a
   * rejection, its pieces are the part of the reply before the error.
   */
  stream(
    request: ModelRequest,
    onDelta: (text: string) => void,
    signal: AbortSignal,
    context?: CallContext,
  ): Promise<ModelOutcome>;
  /** How the model server responds to a request that costs nothing. Never throws. */
  probe(signal: AbortSignal): Promise<ModelServerState>;
  /** The models that are not called for a while because they keep failing. */
  openCircuits(): string[];
}
