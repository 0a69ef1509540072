import type { IncomingMessage } from 'node:http';
import { createParser, type EventSourceParser, type ParseError } from 'eventsource-parser';
import type { FinishReason, Usage } from '../domain/conversation.ts';
import type { ErrorCode } from '../domain/errors.ts';
import type { ModelOutcome } from '../domain/model.ts';
import { requestIdOf, UpstreamError } from './errors.ts';
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
import { connectionError, systemCode } from './transport/send-request.ts';

/** After the reply itself has ended: how long the token counts may take. */
const USAGE_WAIT_MS = 5000;

/** Why reading ends: the reply is whole, a cap of ours was met, or a fault. */
type Verdict = 'whole' | 'capped' | UpstreamError;

/**
 * Reads one streamed answer. Everything that one network read brings is parsed at once, then handed on in one piece
 * at the end of the tick, and only after that the end, good or bad, takes effect: no fault swallows text that came
 * before it.
 */
export class StreamedReply {
  readonly #limits: ReplyLimits;
  readonly #onDelta: (text: string) => void;
  readonly #onStart: () => void;
  readonly #attempt: Attempt;
  readonly #watch: IdleTimeout;
  readonly #parser: EventSourceParser;
  readonly #text: ReplyText;
  readonly #capAt: number;
  readonly #result = Promise.withResolvers<ModelOutcome>();
  #answer: IncomingMessage | undefined;
  #model: string;
  #usage: Usage | null = null;
  #finish: FinishReason | undefined;
  /** What this read brought and was not handed on yet. */
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
   * @param on what it says, and that it begins to say or to think something
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
    this.#watch = new IdleTimeout(this.#untilCap(limits.firstTokenTimeoutMs), () => this.#late());
    this.#parser = createParser({
      maxBufferSize: wireBytes(limits.replyMaxBytes),
      onEvent: ({ data }) => this.#take(data),
      onError: (error) => this.#tooLong(error),
    });
  }

  /** Resolves when the reply is whole or was cut by a cap. Rejects with an UpstreamFault. */
  read(answer: IncomingMessage): Promise<ModelOutcome> {
    this.#answer = answer;
    answer.setEncoding('utf8');
    answer.on('data', (text: string) => this.#feed(text));
    answer.on('end', () => this.#endOfBody());
    answer.on('error', (error) => this.#lost(error));
    return this.#result.promise;
  }

  /** Must follow every use, also when there was no answer to read. */
  close(): void {
    this.#watch.stop();
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
    this.#handOn(this.#text.take(this.#pending));
    this.#pending = '';
    if (this.#text.truncated) this.#verdict = 'capped';
    if (this.#verdict) {
      this.#settle(this.#verdict);
    } else if (this.#alive) {
      this.#alive = false;
      const wait = this.#finish
        ? Math.min(USAGE_WAIT_MS, this.#limits.idleTimeoutMs)
        : this.#limits.idleTimeoutMs;
      this.#watch.set(this.#untilCap(wait));
    }
  };

  #handOn(text: string): void {
    if (text === '' || this.#attempt.stopped) return;
    try {
      this.#onDelta(text);
    } catch (error) {
      // Must not happen; but from inside a tick it would take the process with it.
      this.#attempt.stop(error);
    }
  }

  /** One event of the stream. */
  #take(data: string): void {
    if (this.#verdict) return;
    this.#events = true;
    if (data === '[DONE]') {
      this.#fail('upstream_incomplete', 'no finish_reason');
      return;
    }
    if (data.trim() === '') return;
    const chunk = parseObject(data);
    if (!chunk) {
      // The last event may have been cut by the end of the body: then that is what is wrong, if anything is.
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
    if (choice) this.#takeChoice(choice);
  }

  #takeChoice(choice: Record<string, unknown>): void {
    const { delta } = choice;
    const content = textOf(delta, 'content');
    this.#pending += content;
    if (!this.#started && (content !== '' || thinks(delta))) {
      this.#started = true;
      this.#onStart();
    }
    this.#finish ??= finishReason(choice);
    // An empty piece is no sign of the first token; later any piece shows that the model is at work.
    this.#alive ||= this.#started || this.#finish !== undefined;
  }

  #tooLong(error: ParseError): void {
    if (error.type === 'max-buffer-size-exceeded') this.#verdict ??= this.#finish ? 'whole' : 'capped';
  }

  #endOfBody(): void {
    this.#ended = true;
    // Ends an event whose last empty line was left out.
    if (!this.#verdict) this.#parser.feed('\n\n');
    // Lines that are no events pass as noise, so a web page or a plain JSON answer shows only here.
    const type = this.#answer?.headers['content-type'] ?? '';
    if (!this.#events && /^(text\/html|application\/json)\b/i.test(type)) {
      this.#fail('upstream_error', 'the answer is not an event stream');
    } else {
      this.#fail('upstream_incomplete', 'no finish_reason');
    }
    this.#endOfRead();
  }

  #lost(error: Error): void {
    if (this.#started) this.#fail('upstream_incomplete', systemCode(error) ?? 'connection lost');
    else this.#verdict ??= this.#finish ? 'whole' : connectionError(error);
    this.#endOfRead();
  }

  #late(): void {
    if (!this.#answer) {
      this.#attempt.stop(new UpstreamError('upstream_timeout', { reason: 'no answer' }));
      return;
    }
    if (!this.#finish && performance.now() >= this.#capAt - 1) this.#verdict ??= 'capped';
    else this.#fail('upstream_timeout', this.#started ? 'silence' : 'no first token');
    this.#endOfRead();
  }

  #settle(verdict: Verdict): void {
    this.#settled = true;
    this.#watch.stop();
    if (verdict === 'whole') {
      this.#handOn(this.#text.rest());
      if (this.#answer) this.#attempt.drainResponse(this.#answer);
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
      if (this.#text.said) return { ...outcome, finishReason: 'length', truncated: true };
      const code = performance.now() >= this.#capAt - 1 ? 'upstream_timeout' : 'upstream_error';
      return this.#fault(code, 'a cap was met before anything was said');
    }
    const reason = this.#finish ?? 'stop';
    if (!this.#text.said && reason !== 'content_filter') return this.#fault('upstream_empty', 'no content');
    return { ...outcome, finishReason: reason, truncated: false };
  }

  /** Once the reply has said that it is finished, whatever goes wrong after it takes nothing away. */
  #fail(code: ErrorCode, reason: string): void {
    this.#verdict ??= this.#finish ? 'whole' : this.#fault(code, reason);
  }

  #fault(code: ErrorCode, reason: string): UpstreamError {
    const status = this.#answer?.statusCode;
    const requestId = this.#answer && requestIdOf(this.#answer);
    return new UpstreamError(code, { status, requestId, reason });
  }

  #untilCap(ms: number): number {
    return Math.max(0, Math.min(ms, this.#capAt - performance.now()));
  }
}

/** A model that thinks aloud before it answers has begun. */
function thinks(delta: unknown): boolean {
  return textOf(delta, 'reasoning_content') !== '' || textOf(delta, 'reasoning') !== '';
}
