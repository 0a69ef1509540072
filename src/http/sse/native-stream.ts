/** The event stream of the native routes. */
import type { Response } from 'express';
import { AppError, emptyReply } from '../../domain/errors.ts';
import type { CacheUse } from '../../services/chat/generations.ts';
import type { Turn, TurnResult } from '../../services/chat/turn.ts';
import { mustHaveText, presentCacheUse, presentEnd } from '../response/presenters.ts';
import { requestProblem } from '../response/problem.ts';
import { noteError, noteTurn } from '../response/request-details.ts';
import { contentEvent, endEvent, reasoningEvent, startEvent, streamHeaders } from './encode.ts';
import { type EncoderOptions, SseReplyEncoder } from './reply-encoder.ts';
import type { StreamForm } from './session.ts';

/** The reconnection time of clients, milliseconds. */
const RETRY_MS = 3000;

export interface StreamOptions extends EncoderOptions {
  readonly stream: Turn;
  /** Whether the reply was begun for an earlier request. */
  readonly resumed: boolean;
  /** Undefined where the response cache was not consulted. */
  readonly cache: CacheUse | undefined;
  readonly cached: boolean;
  /** Members of the request that this server does not know. */
  readonly ignored?: readonly string[] | undefined;
}

/** `start`, `reasoning`, the text, then `done` or `error`. */
export class NativeStream implements StreamForm {
  readonly encoder: SseReplyEncoder;
  readonly #response: Response;
  readonly #options: StreamOptions;
  readonly #stream: Turn;

  constructor(response: Response, options: StreamOptions) {
    this.#response = response;
    this.#options = options;
    this.#stream = options.stream;
    const { messageId, reply } = options.stream;
    this.encoder = new SseReplyEncoder(reply, options, {
      content: (piece, offset) => contentEvent(messageId, offset, piece),
      reasoning: reasoningEvent,
    });
  }

  headers(): Record<string, string> {
    const { cache } = this.#options;
    return {
      ...streamHeaders(this.#stream),
      ...(cache && { 'Cache-Status': presentCacheUse(cache) }),
    };
  }

  start(): string {
    const { conversationId, messageId, questionId, model, format } = this.#stream;
    const { cached, resumed, ignored } = this.#options;
    const { offset } = this.encoder;
    return startEvent(messageId, offset, RETRY_MS, {
      content: '',
      conversation_id: conversationId,
      stream_id: messageId,
      message_id: messageId,
      question_id: questionId,
      model,
      format,
      cached,
      ...(resumed && { offset }),
      ignored,
    });
  }

  end(result: PromiseSettledResult<TurnResult>, firstTokenAt: number | undefined): string {
    const { offset, missing, blocked } = this.encoder;
    const length = offset - missing;
    // Where the filter has blocked the reply, text can be missing because the word list has changed.
    if (missing > 0 && !blocked) return this.#errorEvent(replyCut(length), length, { length });
    if (result.status === 'rejected') return this.#failureEvent(result.reason);
    if (length === 0 && !blocked && mustHaveText(result.value)) return this.#errorEvent(emptyReply(), 0);
    noteTurn(this.#response, this.#stream, result.value, firstTokenAt);
    const { usage, persisted } = result.value;
    const { upstream } = this.#stream.reply.generation;
    const data = { content: '', ...presentEnd(result.value, blocked), usage, persisted, length, upstream };
    return endEvent(this.#stream.messageId, length, 'done', data);
  }

  #failureEvent(reason: unknown): string {
    const { offset, hasSentToken } = this.encoder;
    const error =
      reason instanceof AppError ? reason : new AppError('internal', undefined, { cause: reason });
    if (error.code !== 'shutting_down' || (offset === 0 && !hasSentToken))
      return this.#errorEvent(error, offset);
    // The text so far is stored. Another worker, or this one after its restart, resumes the stream.
    const resume = `/api/chat-stream/${this.#stream.messageId}`;
    return this.#errorEvent(error, offset, { resume }, RETRY_MS);
  }

  #errorEvent(error: AppError, offset: number, members: object = {}, retryMs?: number): string {
    noteError(this.#response, error);
    const problem = requestProblem(this.#response, error);
    const data = { content: '', ...problem, finish_reason: 'error', ...members };
    return endEvent(this.#stream.messageId, offset, 'error', data, retryMs);
  }
}

/** The reader has text that a crash has lost. */
function replyCut(length: number): AppError {
  return new AppError('reply_cut', `A crash has cut this reply; its first ${length} characters are stored`);
}
