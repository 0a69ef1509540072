/** A reply as OpenAI's stream of chunks. */
import type { Response } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { Turn, TurnResult } from '../../services/chat/turn.ts';
import { lineJson } from '../../util/line-json.ts';
import type { ReplyRenderer } from '../response/reply-renderer.ts';
import { noteError, noteTurn } from '../response/request-details.ts';
import { streamHeaders } from '../sse/encode.ts';
import { SseReplyEncoder } from '../sse/reply-encoder.ts';
import type { StreamForm } from '../sse/session.ts';
import { presentOpenAiError } from './errors.ts';
import {
  type CompletionReason,
  completionId,
  emptyReplyError,
  nowInSeconds,
  presentLogprobs,
  presentReason,
  presentUsage,
} from './presenter.ts';

const DONE = 'data: [DONE]\n\n';

export class ChunkStream implements StreamForm {
  readonly encoder: SseReplyEncoder;
  readonly #response: Response;
  readonly #turn: Turn;
  readonly #includesUsage: boolean;
  readonly #created = nowInSeconds();
  readonly #isFiltered: boolean;
  /** How many log probabilities were sent. */
  #sent = { content: 0, refusal: 0 };

  /** @param includesUsage whether the last chunk has the token counts */
  constructor(response: Response, turn: Turn, renderer: ReplyRenderer, includesUsage: boolean) {
    this.#response = response;
    this.#turn = turn;
    this.#includesUsage = includesUsage;
    // Made once, so that each chunk needs only the JSON of its piece.
    const [head, tail] = this.#frame(turn.model);
    const [content, reasoning, end] = [`${head}{"content":`, `${head}{"reasoning_content":`, `}${tail}`];
    const rendered = renderer.stream(turn.reply, turn.format);
    this.#isFiltered = rendered !== undefined;
    const { generation } = turn.reply;
    const options = {
      rendered,
      reasoning: renderer.reasoningStream(turn, 0),
      offset: 0,
    };
    this.encoder = new SseReplyEncoder(turn.reply, options, {
      content: (piece) =>
        generation.refuses || generation.logprobs
          ? this.#piece(turn.model, generation.refuses ? { refusal: piece } : { content: piece })
          : content + lineJson(piece) + end,
      reasoning: (piece) => reasoning + lineJson(piece) + end,
    });
  }

  headers(): Record<string, string> {
    return streamHeaders(this.#turn);
  }

  start(): string {
    return this.#chunk(this.#turn.model, { role: 'assistant', content: '', refusal: null });
  }

  end(result: PromiseSettledResult<TurnResult>, firstTokenAt: number | undefined): string {
    const { offset, blocked } = this.encoder;
    if (result.status === 'rejected') return this.#error(result.reason);
    const { value } = result;
    const empty = emptyReplyError(value, offset === 0 ? '' : 'text', blocked);
    if (empty) return this.#error(empty);
    noteTurn(this.#response, this.#turn, value, firstTokenAt);
    const { model, usage } = value;
    const calls = blocked ? [] : (value.toolCalls ?? []).map((call, index) => ({ index, ...call }));
    const called = calls.length === 0 ? '' : this.#chunk(model, { tool_calls: calls });
    const last = this.#piece(model, {}, presentReason(value, blocked));
    const counts = this.#includesUsage ? this.#usage(model, usage && presentUsage(usage)) : '';
    return called + last + counts + DONE;
  }

  #error(reason: unknown): string {
    const error =
      reason instanceof AppError ? reason : new AppError('internal', undefined, { cause: reason });
    noteError(this.#response, error);
    return `data: ${lineJson(presentOpenAiError(error))}\n\n`;
  }

  #chunk(model: string, delta: object, reason: CompletionReason | null = null): string {
    const [head, tail] = this.#frame(model, reason);
    return head + lineJson(delta) + tail;
  }

  /** A chunk with the log probabilities that came since the last chunk. */
  #piece(model: string, delta: object, reason: CompletionReason | null = null): string {
    const { reply } = this.#turn;
    const logprobs = presentLogprobs(reply, this.#isFiltered, this.#sent);
    const { content = [], refusal = [] } = reply.generation.logprobs ?? {};
    this.#sent = { content: content.length, refusal: refusal.length };
    const [head, tail] = this.#frame(model, reason, logprobs);
    return head + lineJson(delta) + tail;
  }

  #usage(model: string, usage: object | null): string {
    return `${this.#head(model)}"choices":[],"usage":${lineJson(usage)}}\n\n`;
  }

  /** The JSON before and after the delta. */
  #frame(
    model: string,
    reason: CompletionReason | null = null,
    logprobs: object | null = null,
  ): [head: string, tail: string] {
    const usage = this.#includesUsage ? ',"usage":null' : '';
    return [
      `${this.#head(model)}"choices":[{"index":0,"delta":`,
      `,"logprobs":${lineJson(logprobs)},"finish_reason":${lineJson(reason)}}]${usage}}\n\n`,
    ];
  }

  #head(model: string): string {
    const id = completionId(this.#turn);
    return `data: {"id":"${id}","object":"chat.completion.chunk","created":${this.#created},"model":${lineJson(model)},`;
  }
}
