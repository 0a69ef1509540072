import type { Logprobs, ModelOutcome } from '../../domain/chat/model.ts';
import type { FinishReason, Usage } from '../../domain/conversations/conversation.ts';
import type { ErrorCode } from '../../domain/errors.ts';
import { classifyError, UpstreamError } from '../errors.ts';
import { type ReportedError, readReportedError } from '../reported-error.ts';
import { meaningOf } from './finish-reasons.ts';
import { type BodyEvents, Framing } from './framing.ts';
import { ByteBudget, wireBytes } from './limits.ts';
import { LogprobsReader } from './logprobs.ts';
import { ReplyText } from './reply-text.ts';
import {
  firstChoice,
  type Json,
  modelName,
  type Piece,
  pieceOf,
  plainText,
  reasonOf,
  usageOf,
} from './shapes.ts';
import { ThinkTags } from './think-tags.ts';
import { ToolCalls } from './tool-calls.ts';

/** Why reading ends: the response ended, a limit of this server was reached, or it failed. */
export type Verdict = 'ended' | 'capped' | UpstreamError;

export interface ResponseDetails {
  readonly status: number | undefined;
  readonly requestId: string | undefined;
}

const TOKEN_LIMIT =
  'The model reached its token limit before it wrote a reply; raise OPENAI_MAX_TOKENS or shorten the conversation.';
const NO_TEXT = 'The model sent reasoning or tool calls, but no reply.';
const BLANK = 'The model sent no text but white space.';

/** Reads one reply from the body of a response: a stream of chunks or one object. Sets no timers. */
export class ReplyReader implements BodyEvents {
  readonly #framing: Framing;
  readonly #budget: ByteBudget;
  readonly #text: ReplyText;
  readonly #reasoning: ReplyText;
  readonly #calls: ToolCalls;
  /** Undefined: tags stay in the text. */
  readonly #tags: ThinkTags | undefined;
  #response: ResponseDetails = { status: undefined, requestId: undefined };
  #model: string;
  #usage: Usage | null = null;
  /** The last `finish_reason`. */
  #reason: string | undefined;
  #isFinal = false;
  /** Text that was not taken yet. */
  #pending = '';
  #pendingReasoning = '';
  #isAlive = false;
  #hasStarted = false;
  /** What came in deltas. A whole message after them repeats it and is ignored. */
  readonly #inDeltas = { text: false, reasoning: false, calls: false };
  #isRefusal = false;
  readonly #logprobs: LogprobsReader;
  #hasEnded = false;
  /** The error in an object without choices: the cause if no reply follows. */
  #remark: ReportedError | undefined;
  #verdict: Verdict | undefined;

  /** @param reasoningTags whether `<think>…</think>` at the start of the text is reasoning */
  constructor(model: string, replyMaxBytes: number, reasoningTags = true) {
    this.#model = model;
    this.#budget = new ByteBudget(replyMaxBytes);
    this.#logprobs = new LogprobsReader(replyMaxBytes);
    this.#text = new ReplyText(this.#budget);
    this.#reasoning = new ReplyText(this.#budget);
    this.#calls = new ToolCalls(this.#budget);
    if (reasoningTags) {
      this.#tags = new ThinkTags((text) => {
        this.#pendingReasoning += text;
      });
    }
    this.#framing = new Framing(wireBytes(replyMaxBytes), this);
  }

  set response(details: ResponseDetails) {
    this.#response = details;
  }

  get verdict(): Verdict | undefined {
    return this.#verdict;
  }

  /** Whether the first token came, of text or of reasoning. */
  get hasStarted(): boolean {
    return this.#hasStarted;
  }

  /** Whether there is text or reasoning that a reader sees. */
  get hasOutput(): boolean {
    return this.#text.hasText || this.#reasoning.hasText;
  }

  /**
   * Whether a `finish_reason` came in a chunk without text and no text followed. The reply is then complete, even if
   * the connection fails later. A reason in a chunk with text counts only when the response ends, because some servers
   * send one with every chunk.
   */
  get isFinal(): boolean {
    return this.#isFinal;
  }

  get usage(): Usage | null {
    return this.#usage;
  }

  /** The name in the response, else the requested one. */
  get model(): string {
    return this.#model;
  }

  /** Whether there was text that is the model's refusal. */
  get isRefusal(): boolean {
    return this.#isRefusal;
  }

  /** The log probabilities since the last call. */
  takeLogprobs(): Logprobs | undefined {
    return this.#logprobs.take();
  }

  /** Whether the model was active since the last call. */
  takeSignOfLife(): boolean {
    const isAlive = this.#isAlive;
    this.#isAlive = false;
    return isAlive;
  }

  /** @returns the text since the last call, as far as its characters are complete */
  takeText(): string {
    const text = this.#text.take(this.#tags ? this.#tags.push(this.#pending) : this.#pending);
    this.#pending = '';
    if (this.#budget.isExceeded) this.#verdict = 'capped';
    return text;
  }

  /** The reasoning since the last call, after {@link takeText}, which finds tags. */
  takeReasoning(): string {
    if (this.#pendingReasoning === '') return '';
    const reasoning = this.#reasoning.take(this.#pendingReasoning);
    this.#pendingReasoning = '';
    if (this.#budget.isExceeded) this.#verdict = 'capped';
    return reasoning;
  }

  /**
   * The text that was held back, after the last piece.
   * @param isWhole false: the response was cut, perhaps inside a character
   */
  takeRest(isWhole = true): string {
    const text = this.#text.take(this.#tags?.end() ?? '');
    return isWhole ? text + this.#text.rest() : text;
  }

  /** The last reasoning, after {@link takeRest}. */
  takeRestOfReasoning(isWhole = true): string {
    const reasoning = this.takeReasoning();
    return isWhole ? reasoning + this.#reasoning.rest() : reasoning;
  }

  feed(text: string): void {
    if (!this.#verdict) this.#framing.feed(text);
  }

  /** Called when the body has ended without an error of HTTP's framing. */
  end(): void {
    this.#hasEnded = true;
    if (!this.#verdict) this.#framing.end();
    if (!this.#framing.isForeign) this.#verdict ??= 'ended';
    else this.fail('upstream_error', 'the response is neither JSON nor an event stream');
  }

  /** Ends reading. A reply that is final counts as ended. */
  stop(verdict: 'capped' | UpstreamError): void {
    this.#verdict ??= this.#isFinal ? 'ended' : verdict;
  }

  fail(code: ErrorCode, reason: string): void {
    this.stop(this.error(code, reason));
  }

  error(code: ErrorCode, reason: string, detail?: string): UpstreamError {
    const reported = this.#remark;
    return new UpstreamError(code, { ...this.#response, reason, reported, ...(detail ? { detail } : {}) });
  }

  /** The outcome of a response that has ended. */
  outcome(): ModelOutcome | UpstreamError {
    const reason = this.#reason === undefined ? undefined : meaningOf(this.#reason);
    if (reason === undefined || reason === 'none') return this.#unfinished();
    // With other reasons the arguments of a call may be cut.
    const toolCalls = reason === 'stop' || reason === 'tool_calls' ? this.#calls.finished() : [];
    if (toolCalls.length > 0) return { ...this.#outcome('tool_calls', false), toolCalls };
    if (!this.hasOutput && reason !== 'content_filter') {
      const nothing = this.#hasStarted ? NO_TEXT : undefined;
      const hint = this.#text.isBlank ? BLANK : nothing;
      return this.error('upstream_empty', 'no content', reason === 'length' ? TOKEN_LIMIT : hint);
    }
    return this.#outcome(reason === 'tool_calls' ? 'stop' : reason, false);
  }

  /** The outcome of a reply that is incomplete, or not known to be complete. */
  truncatedOutcome(reason: 'length' | 'error'): ModelOutcome {
    return this.#outcome(reason, true);
  }

  #outcome(finishReason: FinishReason, truncated: boolean): ModelOutcome {
    const outcome = { usage: this.#usage, model: this.#model, finishReason, truncated };
    return this.#isRefusal ? { ...outcome, refusal: true } : outcome;
  }

  #unfinished(): UpstreamError {
    if (this.#reason !== undefined) {
      this.#remark = { code: this.#reason };
      return this.error('upstream_incomplete', 'unknown finish_reason');
    }
    if (!this.#hasStarted && this.#remark?.message !== undefined) return this.#errorInside(this.#remark);
    if (!this.hasOutput && this.#framing.isValue) return this.error('upstream_empty', 'no content');
    return this.error('upstream_incomplete', 'no finish_reason');
  }

  /** The event `chunk` of the framing. */
  chunk(object: Json): void {
    if (this.#verdict) return;
    const choice = firstChoice(object);
    if (object.error !== undefined && object.error !== null) {
      const reported = readReportedError(object.error);
      // Some servers send an empty error with every chunk.
      if (reported || !choice) {
        this.stop(this.#errorInside(reported));
        return;
      }
    }
    this.#model = modelName(object) ?? this.#model;
    const usage = usageOf(object);
    if (usage) this.#usage = usage;
    if (choice) this.#onChoice(choice);
    else if (!usage) this.#remark ??= readReportedError(object);
    // A chunk with token counts and no choice comes after the last piece.
    else if (this.#reason !== undefined) this.#isFinal = true;
  }

  done(): void {
    this.#verdict ??= 'ended';
  }

  failure(value: unknown): void {
    this.stop(this.#errorInside(readReportedError(value)));
  }

  broken(): void {
    // The end of a stream may have cut its last event. Then the missing `finish_reason` is reported.
    if (!this.#hasEnded || this.#framing.isValue) this.fail('upstream_error', 'a chunk is not a JSON object');
  }

  tooLong(): void {
    this.stop('capped');
  }

  #onChoice(choice: Json): void {
    const text = plainText(choice);
    const piece = text === '' ? pieceOf(choice) : undefined;
    if (choice.logprobs) this.#logprobs.add(choice);
    const reason = reasonOf(choice);
    const meaning = reason && meaningOf(reason);
    if (meaning === 'error') this.stop(this.#errorInside(readReportedError(choice.error)));
    if (this.#verdict) return;
    const isEnd = reason !== undefined && meaning !== 'none';
    if (isEnd) this.#reason = reason;
    if (piece ? this.#takePiece(piece) : this.#takeDelta(text)) {
      this.#hasStarted = true;
      this.#isFinal = false;
    } else if (isEnd) {
      // Before the first token a reason does not count, as some servers send one with every chunk; a filter may leave
      // no text.
      this.#isFinal = this.#hasStarted || meaning === 'content_filter';
    }
    // Before the first token an empty piece does not move the deadline; after it, every piece does.
    this.#isAlive ||= this.#hasStarted || this.#isFinal;
  }

  #takeDelta(text: string): true {
    this.#inDeltas.text = true;
    this.#pending += text;
    return true;
  }

  /** @returns whether it has anything new */
  #takePiece({ text, isRefusal, reasoning, calls, isActive, isMessage }: Piece): boolean {
    const known = this.#inDeltas;
    const isNew = (isKnown: boolean) => !isMessage || !isKnown;
    const adds = {
      text: text !== '' && isNew(known.text),
      reasoning: reasoning !== '' && isNew(known.reasoning),
      calls: calls.length > 0 && isNew(known.calls),
    };
    if (adds.text) this.#pending += text;
    if (adds.text && isRefusal) this.#isRefusal = true;
    if (adds.reasoning) this.#pendingReasoning += reasoning;
    if (adds.calls) this.#calls.add(calls);
    const isRepetition = isMessage && (known.text || known.reasoning || known.calls);
    if (!isMessage) {
      known.text ||= adds.text;
      known.reasoning ||= adds.reasoning;
      known.calls ||= adds.calls;
    }
    return adds.text || adds.reasoning || adds.calls || (isActive && !isRepetition);
  }

  #errorInside(reported: ReportedError | undefined): UpstreamError {
    const { status: httpStatus = 200, requestId } = this.#response;
    return classifyError(reported?.status ?? httpStatus, reported, {
      httpStatus,
      requestId,
      reason: 'error inside the response',
      // After the first token the caller has text, so the call cannot be repeated.
      retryable: this.#hasStarted ? false : undefined,
    });
  }
}
