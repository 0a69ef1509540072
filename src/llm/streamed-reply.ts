import type { IncomingMessage } from 'node:http';
import { createParser, type EventSourceParser, type ParseError } from 'eventsource-parser';
import type { ModelOutcome } from '../domain/chat/model.ts';
import type { FinishReason, Usage } from '../domain/conversations/conversation.ts';
import { type ErrorCode, errorCode } from '../domain/errors.ts';
import { connectionError, requestIdOf, UpstreamError } from './errors.ts';
import { type ReplyLimits, wireBytes } from './limits.ts';
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
import type { Attempt } from './transport/attempt.ts';
import { IdleTimeout } from './transport/idle-timeout.ts';

/** How long the token counts may take after `finish_reason`. */
const USAGE_WAIT_MS = 5000;

/** Why reading ends: the reply is whole, a limit of this server was reached, or it failed. */
type Verdict = 'whole' | 'capped' | UpstreamError;

/**
 * Reads one streamed response. All events of one network read are parsed, then their text is passed on in one piece at
 * the end of the tick, and only then the verdict takes effect: no error drops text that came before it.
 */
export class StreamedReply {
  readonly #limits: ReplyLimits;
  readonly #onDelta: (text: string) => void;
  readonly #onStart: () => void;
  readonly #attempt: Attempt;
  readonly #timeout: IdleTimeout;
  readonly #parser: EventSourceParser;
  readonly #text: ReplyText;
  readonly #capAt: number;
  readonly #result = Promise.withResolvers<ModelOutcome>();
  #response: IncomingMessage | undefined;
  #model: string;
  #usage: Usage | null = null;
  #finish: FinishReason | undefined;
  /** Text of this read that was not passed on yet. */
  #pending = '';
  #events = false;
  #alive = false;
  #started = false;
  #ended = false;
  #scheduled = false;
  #verdict: Verdict | undefined;
  #settled = false;

  /**
   * @param capAt when the reply must end at the latest, on the monotonic clock
   * @param on called with each piece of text, and when the first token (of text or of reasoning) comes
   */
  constructor(
    model: string,
    limits: ReplyLimits,
    capAt: number,
    on: { readonly delta: (text: string) => void; readonly start: () => void },
    attempt: Attempt,
  ) {
    this.#model = model;
    this.#limits = limits;
    this.#capAt = capAt;
    this.#onDelta = on.delta;
    this.#onStart = on.start;
    this.#attempt = attempt;
    this.#text = new ReplyText(limits.replyMaxBytes);
    this.#timeout = new IdleTimeout(this.#withinCap(limits.firstTokenTimeoutMs), () => this.#onTimeout());
    this.#parser = createParser({
      maxBufferSize: wireBytes(limits.replyMaxBytes),
      onEvent: ({ data }) => this.#onEvent(data),
      onError: (error) => this.#onTooLong(error),
    });
  }

  /** Resolves when the reply is whole or was cut by a limit. Rejects with an UpstreamError. */
  read(response: IncomingMessage): Promise<ModelOutcome> {
    this.#response = response;
    response.setEncoding('utf8');
    response.on('data', (text: string) => this.#feed(text));
    response.on('end', () => this.#onEnd());
    response.on('error', (error) => this.#onConnectionLost(error));
    return this.#result.promise;
  }

  /** Must follow every use, also when no response came. */
  close(): void {
    this.#timeout.stop();
  }

  #feed(text: string): void {
    if (this.#verdict) return;
    this.#parser.feed(text);
    if (this.#scheduled) return;
    this.#scheduled = true;
    process.nextTick(this.#endOfRead);
  }

  readonly #endOfRead = (): void => {
    this.#scheduled = false;
    if (this.#settled) return;
    this.#passOn(this.#text.take(this.#pending));
    this.#pending = '';
    if (this.#text.truncated) this.#verdict = 'capped';
    if (this.#verdict) {
      this.#settle(this.#verdict);
    } else if (this.#alive) {
      this.#alive = false;
      const wait = this.#finish
        ? Math.min(USAGE_WAIT_MS, this.#limits.idleTimeoutMs)
        : this.#limits.idleTimeoutMs;
      this.#timeout.set(this.#withinCap(wait));
    }
  };

  #passOn(text: string): void {
    if (text === '' || this.#attempt.stopped) return;
    try {
      this.#onDelta(text);
    } catch (error) {
      // Thrown inside a tick, it would end the process.
      this.#attempt.stop(error);
    }
  }

  #onEvent(data: string): void {
    if (this.#verdict) return;
    this.#events = true;
    if (data === '[DONE]') {
      this.#fail('upstream_incomplete', 'no finish_reason');
      return;
    }
    if (data.trim() === '') return;
    const chunk = parseObject(data);
    if (!chunk) {
      // The end of the body may have cut the last event; then the missing end is the error.
      if (!this.#ended) this.#fail('upstream_error', 'a chunk is not a JSON object');
      return;
    }
    const choice = firstChoice(chunk);
    if (reportsError(chunk, choice)) {
      this.#fail('upstream_error', 'error inside the stream');
      return;
    }
    this.#model = modelName(chunk) ?? this.#model;
    this.#usage = usageOf(chunk) ?? this.#usage;
    if (choice) this.#onChoice(choice);
  }

  #onChoice(choice: Record<string, unknown>): void {
    const { delta } = choice;
    const content = textOf(delta, 'content');
    this.#pending += content;
    if (!this.#started && (content !== '' || hasReasoning(delta))) {
      this.#started = true;
      this.#onStart();
    }
    this.#finish ??= finishReason(choice);
    // Before the first token an empty piece does not move the deadline; after it, every piece does.
    this.#alive ||= this.#started || this.#finish !== undefined;
  }

  #onTooLong(error: ParseError): void {
    if (error.type === 'max-buffer-size-exceeded') this.#verdict ??= this.#finish ? 'whole' : 'capped';
  }

  #onEnd(): void {
    this.#ended = true;
    // Completes an event without its final empty line.
    if (!this.#verdict) this.#parser.feed('\n\n');
    // The parser skips lines that are no events, so a web page or plain JSON is noticed only here.
    const type = this.#response?.headers['content-type'] ?? '';
    if (!this.#events && /^(text\/html|application\/json)\b/i.test(type)) {
      this.#fail('upstream_error', 'the response is not an event stream');
    } else {
      this.#fail('upstream_incomplete', 'no finish_reason');
    }
    this.#endOfRead();
  }

  #onConnectionLost(error: Error): void {
    if (this.#started) this.#fail('upstream_incomplete', errorCode(error) ?? 'connection lost');
    else this.#verdict ??= this.#finish ? 'whole' : connectionError(error);
    this.#endOfRead();
  }

  #onTimeout(): void {
    if (!this.#response) {
      this.#attempt.stop(new UpstreamError('upstream_timeout', { reason: 'no response' }));
      return;
    }
    if (!this.#finish && performance.now() >= this.#capAt - 1) this.#verdict ??= 'capped';
    else this.#fail('upstream_timeout', this.#started ? 'silence' : 'no first token');
    this.#endOfRead();
  }

  #settle(verdict: Verdict): void {
    this.#settled = true;
    this.#timeout.stop();
    if (verdict === 'whole') {
      this.#passOn(this.#text.rest());
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
    const outcome = { usage: this.#usage, model: this.#model };
    if (verdict === 'capped') {
      if (this.#text.hasText) return { ...outcome, finishReason: 'length', truncated: true };
      const code = performance.now() >= this.#capAt - 1 ? 'upstream_timeout' : 'upstream_error';
      return this.#error(code, 'a limit was reached before the first text');
    }
    const reason = this.#finish ?? 'stop';
    if (!this.#text.hasText && reason !== 'content_filter')
      return this.#error('upstream_empty', 'no content');
    return { ...outcome, finishReason: reason, truncated: false };
  }

  /** After `finish_reason` the reply is whole, whatever fails later. */
  #fail(code: ErrorCode, reason: string): void {
    this.#verdict ??= this.#finish ? 'whole' : this.#error(code, reason);
  }

  #error(code: ErrorCode, reason: string): UpstreamError {
    const status = this.#response?.statusCode;
    const requestId = this.#response && requestIdOf(this.#response);
    return new UpstreamError(code, { status, requestId, reason });
  }

  #withinCap(ms: number): number {
    return Math.max(0, Math.min(ms, this.#capAt - performance.now()));
  }
}

/** Reasoning tokens count as the first token. */
function hasReasoning(delta: unknown): boolean {
  return textOf(delta, 'reasoning_content') !== '' || textOf(delta, 'reasoning') !== '';
}
