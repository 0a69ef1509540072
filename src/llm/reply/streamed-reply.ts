import type { IncomingMessage } from 'node:http';
import type { CallContext, ModelOutcome, PieceReader } from '../../domain/chat/model.ts';
import { errorCode } from '../../domain/errors.ts';
import { connectionError, requestIdOf, UpstreamError } from '../errors.ts';
import type { Attempt } from '../transport/attempt.ts';
import { decodedBody } from '../transport/body.ts';
import { IdleTimeout } from '../transport/idle-timeout.ts';
import type { ReplyLimits } from './limits.ts';
import { ReplyReader, type Verdict } from './reply-reader.ts';

/** How long to wait for the token counts after the chunk with the `finish_reason`. */
const USAGE_WAIT_MS = 5000;

/**
 * Reads one streamed response within its timeouts. The events of one network read are parsed together, and their text
 * is passed on as one piece at the end of the tick. Only then the verdict takes effect, so that no error drops text
 * that came before it.
 */
export class StreamedReply {
  readonly #limits: ReplyLimits;
  readonly #on: PieceReader;
  readonly #context: Pick<CallContext, 'refuses' | 'logprobs'>;
  readonly #onStart: () => void;
  readonly #attempt: Attempt;
  readonly #timeout: IdleTimeout;
  readonly #reader: ReplyReader;
  readonly #capAt: number;
  readonly #result = Promise.withResolvers<ModelOutcome>();
  #response: IncomingMessage | undefined;
  #started = false;
  #scheduled = false;
  #settled = false;

  /**
   * @param capAt when the reply must end at the latest, on the monotonic clock
   * @param onStart called when the first token (of text or of reasoning) comes
   */
  constructor(
    model: string,
    limits: ReplyLimits,
    capAt: number,
    on: PieceReader,
    context: Pick<CallContext, 'refuses' | 'logprobs'>,
    onStart: () => void,
    attempt: Attempt,
  ) {
    this.#limits = limits;
    this.#capAt = capAt;
    this.#on = on;
    this.#context = context;
    this.#onStart = onStart;
    this.#attempt = attempt;
    this.#reader = new ReplyReader(model, limits.replyMaxBytes, limits.reasoningTags);
    this.#timeout = new IdleTimeout(this.#withinCap(limits.firstTokenTimeoutMs), () => this.#onTimeout());
  }

  /** Resolves when the reply is whole or was cut by a limit. Rejects with an UpstreamError. */
  read(response: IncomingMessage): Promise<ModelOutcome> {
    this.#response = response;
    this.#reader.response = { status: response.statusCode, requestId: requestIdOf(response) };
    const body = decodedBody(response).setEncoding('utf8');
    body.on('data', (text: string) => this.#feed(text));
    body.on('end', () => this.#onEnd());
    body.on('error', (error) => this.#onConnectionLost(error));
    return this.#result.promise;
  }

  /** Stops the timer. Must be called after each attempt, also without a response. */
  close(): void {
    this.#timeout.stop();
  }

  #feed(text: string): void {
    if (this.#reader.verdict) return;
    this.#reader.feed(text);
    if (!this.#started && this.#reader.hasStarted) {
      this.#started = true;
      this.#onStart();
    }
    if (this.#scheduled) return;
    this.#scheduled = true;
    process.nextTick(this.#endOfRead);
  }

  readonly #endOfRead = (): void => {
    this.#scheduled = false;
    if (this.#settled) return;
    const text = this.#reader.takeText();
    this.#passOn(this.#reader.takeReasoning(), text);
    const { verdict, isFinal } = this.#reader;
    if (verdict) {
      this.#settle(verdict);
    } else if (this.#reader.takeSignOfLife()) {
      const { idleTimeoutMs } = this.#limits;
      this.#timeout.set(this.#withinCap(isFinal ? Math.min(USAGE_WAIT_MS, idleTimeoutMs) : idleTimeoutMs));
    }
  };

  #passOn(reasoning: string, text: string): void {
    if (this.#attempt.stopped) return;
    try {
      const logprobs = this.#reader.takeLogprobs();
      if (logprobs) this.#context.logprobs?.(logprobs);
      if (this.#reader.isRefusal) this.#context.refuses?.();
      if (reasoning !== '') this.#on.reasoning(reasoning);
      if (text !== '') this.#on.content(text);
    } catch (error) {
      // Caught here, because an error thrown in a tick ends the process.
      this.#attempt.stop(error);
    }
  }

  #onEnd(): void {
    this.#reader.end();
    this.#endOfRead();
  }

  #onConnectionLost(error: Error): void {
    if (error instanceof UpstreamError) this.#reader.stop(error);
    else if (!this.#reader.hasStarted) this.#reader.stop(connectionError(error));
    else this.#reader.fail('upstream_incomplete', errorCode(error) ?? 'connection lost');
    this.#endOfRead();
  }

  #onTimeout(): void {
    if (!this.#response) {
      this.#attempt.stop(new UpstreamError('upstream_timeout', { reason: 'no response' }));
      return;
    }
    if (performance.now() >= this.#capAt - 1) this.#reader.stop('capped');
    else this.#reader.fail('upstream_timeout', this.#reader.hasStarted ? 'silence' : 'no first token');
    this.#endOfRead();
  }

  #settle(verdict: Verdict): void {
    this.#settled = true;
    this.#timeout.stop();
    const isWhole = verdict === 'ended';
    const rest = this.#reader.takeRest(isWhole);
    this.#passOn(this.#reader.takeRestOfReasoning(isWhole), rest);
    if (isWhole) {
      if (this.#response) this.#attempt.drainResponse(this.#response);
    } else {
      this.#attempt.closeConnection();
    }
    const outcome = this.#outcome(verdict);
    if (outcome instanceof UpstreamError) this.#result.reject(outcome);
    else this.#result.resolve(outcome);
  }

  #outcome(verdict: Verdict): ModelOutcome | UpstreamError {
    if (verdict instanceof UpstreamError) return verdict;
    if (verdict === 'ended') return this.#reader.outcome();
    if (this.#reader.hasOutput) return this.#reader.truncatedOutcome('length');
    const code = performance.now() >= this.#capAt - 1 ? 'upstream_timeout' : 'upstream_error';
    return this.#reader.error(code, 'a limit was reached before the first text');
  }

  #withinCap(ms: number): number {
    return Math.max(0, Math.min(ms, this.#capAt - performance.now()));
  }
}
