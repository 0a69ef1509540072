/** A call to the model server. */
import type { ContextMessage, FinishReason, Usage } from './conversation.ts';

/** What is sent to the model server; also what a cached reply is a reply to. */
export interface ModelRequest {
  readonly model: string;
  readonly messages: readonly ContextMessage[];
  readonly temperature?: number;
  readonly maxTokens?: number;
}

export interface ModelOutcome {
  readonly finishReason: FinishReason;
  readonly usage: Usage | null;
  /** The model's own name for itself, where it says so; else the one asked for. */
  readonly model: string;
  /** True when a cap of this server (bytes or time) ended the reply; `finishReason` is then `length`. */
  readonly truncated: boolean;
}

export interface ModelReply extends ModelOutcome {
  readonly content: string;
}

/**
 * Rejections are AppErrors: `upstream_error`, `upstream_rejected`, `upstream_busy` (with retryAfter),
 * `upstream_timeout`, `upstream_incomplete`, `upstream_empty`. An abort by the signal rejects with its reason.
 */
export interface ChatModel {
  /** The whole reply at once. */
  complete(request: ModelRequest, signal: AbortSignal): Promise<ModelReply>;
  /**
   * The reply as it comes. `onDelta` gets non-empty, well-formed pieces (no lone surrogate, no split pair) and must
   * not throw; after a rejection what it got so far is what was said.
   */
  stream(request: ModelRequest, onDelta: (text: string) => void, signal: AbortSignal): Promise<ModelOutcome>;
  /** Whether the model server answers at all; for /health/ready. Never throws. */
  reachable(signal: AbortSignal): Promise<boolean>;
}
