import type { ContextMessage, FinishReason, ToolCall, Usage } from '../conversations/conversation.ts';
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
  /** Only with the finish reason `tool_calls`. */
  readonly toolCalls?: readonly ToolCall[];
  /** The text is the model's refusal. */
  readonly refusal?: true;
  /** Which model server replied; absent when there is only one. */
  readonly upstream?: Upstream;
}

export type Upstream = 'primary' | 'fallback';

/** A model that the model server offers. */
export interface ListedModel {
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly ownedBy: string;
}

/** `refused`: it rejects the API key; `not_found`: it has no list of models at this address. */
export type ModelServerState = 'up' | 'refused' | 'not_found' | 'down';

export interface ModelReply extends ModelOutcome {
  readonly content: string;
  /** What the model said before it; absent without any. */
  readonly reasoning?: string;
}

/** Takes the pieces of a reply: non-empty, well-formed (no lone surrogate, no split pair). Must not throw. */
export interface PieceReader {
  content(text: string): void;
  reasoning(text: string): void;
}

/** Of the tokens of a text, in the form of OpenAI's API. */
export interface Logprobs {
  readonly content: readonly unknown[];
  readonly refusal: readonly unknown[];
}

/** What belongs to one call and not to its request, so that equal requests stay equal. */
export interface CallContext {
  /** Of the turn that makes the call. */
  readonly conversationId?: string;
  /** Sent along, such as `traceparent`. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Called when the request of an attempt is on its connection. */
  connected?(): void;
  /** Called when the first token of a stream has come, be it of text, of reasoning or of a tool call. */
  started?(): void;
  /** Called before the first text that is the model's refusal. */
  refuses?(): void;
  /** Called with the log probabilities of the text that follows, or of a whole reply. */
  logprobs?(piece: Logprobs): void;
  /** Called when it is known which model server replies. */
  answersFrom?(upstream: Upstream): void;
}

/**
 * Rejections are AppErrors: `upstream_error`, `upstream_rejected`, `upstream_busy` (with retryAfter),
 * `upstream_timeout`, `upstream_incomplete`, `upstream_empty`, `upstream_filtered`, `upstream_quota`. An abort by the
 * signal rejects with its reason.
 */
export interface ChatModel {
  complete(request: ModelRequest, signal: AbortSignal, context?: CallContext): Promise<ModelReply>;
  /** After a rejection, the pieces that `on` got are the part of the reply before the error. */
  stream(
    request: ModelRequest,
    on: PieceReader,
    signal: AbortSignal,
    context?: CallContext,
  ): Promise<ModelOutcome>;
  /** How the model server responds to a request that costs nothing. Never throws. */
  probe(signal: AbortSignal): Promise<ModelServerState>;
  /** The models that are not called for a while because they keep failing. */
  openCircuits(): string[];
}
