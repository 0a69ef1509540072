import type { Response } from 'express';
import { AppError, emptyReply } from '../../domain/errors.ts';
import type { Metrics } from '../../domain/metrics.ts';
import type { CacheUse } from '../../services/chat/generations.ts';
import type { Turn, TurnResult } from '../../services/chat/turn.ts';
import { mustHaveText, presentCacheUse, presentEnd } from '../response/presenters.ts';
import { requestProblem } from '../response/problem.ts';
import { noteDetails, noteError, noteTurn } from '../response/request-details.ts';
import { type ChunkFraming, takeOverChunking } from './chunk-framing.ts';
import { EVENT_STREAM_HEADERS, endEvent, PING, startEvent } from './encode.ts';
import { type EncoderOptions, SseReplyEncoder } from './reply-encoder.ts';

/** The reconnection time of clients, milliseconds. */
const RETRY_MS = 3000;
/** Readers that take nothing for this long are disconnected. The reply is still generated and saved. */
const STALL_MS = 60_000;

export interface SessionSettings {
  readonly heartbeatMs: number;
  /** The response starts with the first token, or after this time. 0: as soon as the user message is stored. */
  readonly openMs: number;
  readonly metrics: Pick<Metrics, 'streamOpened' | 'streamClosed'>;
}

export interface StreamOptions extends EncoderOptions {
  readonly stream: Turn;
  /** Whether the reply was begun for an earlier request. The response then starts without waiting for a token. */
  readonly resumed: boolean;
  /** Undefined where the response cache was not consulted. */
  readonly cache: CacheUse | undefined;
  readonly cached: boolean;
  /** Members of the request that this server does not know. */
  readonly ignored?: readonly string[] | undefined;
}

/**
 * Streams a reply to one reader. It sends what is there as fast as the connection takes it, and buffers nothing
 * itself. A reader that leaves does not affect the reply.
 */
export class StreamSession {
  readonly #response: Response;
  readonly #options: StreamOptions;
  readonly #stream: Turn;
  readonly #encoder: SseReplyEncoder;
  readonly #settings: SessionSettings;
  /** Undefined until the response has started. */
  #framing: ChunkFraming | undefined;
  #waitsForDrain = false;
  /** Set while the event loop serves others between two parts of the reply. */
  #pause: NodeJS.Immediate | undefined;
  #stall: NodeJS.Timeout | undefined;
  #onCaughtUp: () => void = () => {};
  #firstTokenAt: number | undefined;

  constructor(response: Response, options: StreamOptions, settings: SessionSettings) {
    this.#response = response;
    this.#options = options;
    this.#stream = options.stream;
    this.#encoder = new SseReplyEncoder(options.stream.messageId, options.stream.reply, options);
    this.#settings = settings;
  }

  /**
   * Resolves when the stream has ended or the reader has left.
   * @throws AppError before the response has started, so that the status line can carry it
   */
  async run(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#response.once('close', resolve));
    noteTurn(this.#response, this.#stream);
    this.#settings.metrics.streamOpened();
    try {
      await this.#untilFirstToken(closed);
      if (!this.#isClosed) await this.#send(closed);
    } finally {
      this.#settings.metrics.streamClosed();
      this.#stream.release();
    }
  }

  get #isClosed(): boolean {
    return this.#response.destroyed || this.#response.writableEnded;
  }

  async #untilFirstToken(closed: Promise<void>): Promise<void> {
    const { reply, started, result } = this.#stream;
    const { resumed } = this.#options;
    await started;
    if (!resumed && reply.running && !this.#encoder.hasToken)
      await Promise.race([closed, this.#firstToken()]);
    if (this.#isClosed) return;
    // A new reader of a reply that failed without a token gets the error as status, once it is stored.
    if (!resumed && reply.end instanceof AppError && !this.#encoder.hasToken) await result;
  }

  /** Resolves with the first token for the reader, the end, or after `openMs`. */
  #firstToken(): Promise<void> {
    return new Promise((resolve) => {
      const { reply } = this.#stream;
      const timer = setTimeout(done, this.#settings.openMs);
      const unwatch = reply.watch(() => {
        if (this.#encoder.hasToken || !reply.running) done();
      });
      function done() {
        clearTimeout(timer);
        unwatch();
        resolve();
      }
    });
  }

  async #send(closed: Promise<void>): Promise<void> {
    const caughtUp = new Promise<void>((resolve) => {
      this.#onCaughtUp = resolve;
    });
    const unwatch = this.#stream.reply.watch(() => this.#pump());
    this.#start();
    const heartbeat = setInterval(() => this.#ping(), jittered(this.#settings.heartbeatMs));
    try {
      await Promise.race([closed, caughtUp]);
      if (!this.#isClosed) await Promise.race([closed, this.#end()]);
    } finally {
      clearInterval(heartbeat);
      clearTimeout(this.#stall);
      clearImmediate(this.#pause);
      unwatch();
    }
  }

  #start(): void {
    const { conversationId, messageId, model, format } = this.#stream;
    const { cache, cached, resumed, ignored } = this.#options;
    const { offset } = this.#encoder;
    this.#response.writeHead(200, {
      ...streamHeaders(this.#stream),
      ...(cache && { 'Cache-Status': presentCacheUse(cache) }),
    });
    this.#framing = takeOverChunking(this.#response);
    const start = startEvent(messageId, offset, RETRY_MS, {
      content: '',
      conversation_id: conversationId,
      stream_id: messageId,
      message_id: messageId,
      model,
      format,
      cached,
      ...(resumed && { offset }),
      ignored,
    });
    this.#write(start + (this.#encoder.next() ?? ''));
    this.#pump();
  }

  /** Writes one part in each tick, until the connection is full or there is no new text. */
  #pump(): void {
    if (!this.#framing || this.#pause || this.#waitsForDrain || this.#isClosed) return;
    const events = this.#encoder.next();
    if (events !== undefined && events !== '') this.#write(events);
    if (this.#waitsForDrain) return;
    if (!this.#encoder.isCaughtUp) this.#pumpLater();
    else if (!this.#stream.reply.running) this.#onCaughtUp();
  }

  #pumpLater(): void {
    this.#pause = setImmediate(() => {
      this.#pause = undefined;
      this.#pump();
    });
  }

  #write(events: string): void {
    if (this.#firstTokenAt === undefined && this.#encoder.hasSentToken) this.#noteFirstToken();
    if (this.#response.write(this.#frame(events))) return;
    this.#waitsForDrain = true;
    this.#stall = this.#stallTimer();
    this.#response.once('drain', () => {
      clearTimeout(this.#stall);
      this.#waitsForDrain = false;
      this.#pump();
    });
  }

  #noteFirstToken(): void {
    this.#firstTokenAt = performance.now();
    noteDetails(this.#response, { firstTokenAt: this.#firstTokenAt });
  }

  #frame(events: string): string {
    return this.#framing ? this.#framing.frame(events) : events;
  }

  #stallTimer(): NodeJS.Timeout {
    return setTimeout(() => this.#response.destroy(), STALL_MS);
  }

  #ping(): void {
    if (!this.#waitsForDrain && !this.#isClosed) this.#response.write(this.#frame(PING));
  }

  async #end(): Promise<void> {
    const rest = this.#encoder.rest();
    if (rest !== '') this.#write(rest);
    // The last event says whether the turn is saved.
    const [result] = await Promise.allSettled([this.#stream.result]);
    if (this.#isClosed) return;
    this.#response.end(this.#frame(this.#lastEvent(result)) + (this.#framing?.end ?? ''));
    if (this.#response.writableLength === 0) return;
    const stall = this.#stallTimer();
    this.#response.once('close', () => clearTimeout(stall));
  }

  #lastEvent(result: PromiseSettledResult<TurnResult>): string {
    const { offset, missing, blocked } = this.#encoder;
    const length = offset - missing;
    // Where the filter has blocked the reply, text can be missing because the word list has changed.
    if (missing > 0 && !blocked) return this.#errorEvent(replyCut(length), length, { length });
    if (result.status === 'rejected') return this.#failureEvent(result.reason);
    if (length === 0 && !blocked && mustHaveText(result.value)) return this.#errorEvent(emptyReply(), 0);
    noteTurn(this.#response, this.#stream, result.value, this.#firstTokenAt);
    const { usage, persisted } = result.value;
    const { upstream } = this.#stream.reply.generation;
    const data = { content: '', ...presentEnd(result.value, blocked), usage, persisted, length, upstream };
    return endEvent(this.#stream.messageId, length, 'done', data);
  }

  #failureEvent(reason: unknown): string {
    const { offset, hasSentToken } = this.#encoder;
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

export function streamHeaders({ conversationId, messageId, reply }: Turn): Record<string, string> {
  const { upstream } = reply.generation;
  return {
    ...EVENT_STREAM_HEADERS,
    'X-Conversation-Id': conversationId,
    'X-Stream-Id': messageId,
    ...(upstream && { 'X-Upstream': upstream }),
  };
}

/** The reader has text that a crash has lost. */
function replyCut(length: number): AppError {
  return new AppError('reply_cut', `A crash has cut this reply; its first ${length} characters are stored`);
}

/** Up to a quarter earlier, so that the pings of many streams are spread. */
function jittered(ms: number): number {
  return ms * (1 - Math.random() / 4);
}
