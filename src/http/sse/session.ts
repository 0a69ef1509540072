import type { Response } from 'express';
import type { ReplyFormat } from '../../domain/conversation.ts';
import { AppError } from '../../domain/errors.ts';
import type { CacheUse } from '../../services/chat/generations.ts';
import type { ReplyStream, TurnResult } from '../../services/chat/turn.ts';
import { presentCacheUse } from '../response/presenters.ts';
import { endEvent, httpChunk, PING, startEvent } from './encode.ts';
import { type ReplyForm, SseReplyEncoder } from './reply-events.ts';

/** What a reader should wait before it connects again, milliseconds. */
const RETRY_MS = 3000;
/** A reader that takes nothing for this long is let go; the reply is made and saved all the same. */
const STALL_MS = 60_000;

export interface SessionOptions {
  readonly heartbeatMs: number;
  /** Headers leave with the first token, or after this time. 0: as soon as the question is stored. */
  readonly openMs: number;
}

/** What a session reads. */
export interface StreamOptions extends ReplyForm {
  readonly stream: ReplyStream;
  readonly format: ReplyFormat;
  /** Whether the reader comes back, or comes late: it wants to know at once that it is connected. */
  readonly resumed: boolean;
  /** Undefined where the response cache had no say. */
  readonly cache: CacheUse | undefined;
  readonly cached: boolean;
}

/**
 * One reader of one reply: sends what has come as soon as the connection takes it, remembers where it is, and keeps
 * nothing of its own. A reader that leaves changes nothing for the reply.
 */
export class StreamSession {
  readonly #response: Response;
  readonly #reading: StreamOptions;
  readonly #stream: ReplyStream;
  readonly #events: SseReplyEncoder;
  readonly #options: SessionOptions;
  readonly #toProblem: (error: AppError) => object;
  #open = false;
  /** Whether the body is in HTTP/1.1 chunks, which are then made here. */
  #framed = false;
  #blocked = false;
  #stall: NodeJS.Timeout | undefined;
  #caughtUp: () => void = () => {};

  constructor(
    response: Response,
    reading: StreamOptions,
    options: SessionOptions,
    toProblem: (error: AppError) => object,
  ) {
    this.#response = response;
    this.#reading = reading;
    this.#stream = reading.stream;
    this.#events = new SseReplyEncoder(reading.stream.messageId, reading.stream.reply, reading);
    this.#options = options;
    this.#toProblem = toProblem;
  }

  /**
   * Resolves when the stream has ended or the reader has gone.
   * @throws AppError as long as nothing has been sent: the caller still has the status line for it
   */
  async run(): Promise<void> {
    try {
      await this.#run();
    } finally {
      this.#stream.release();
    }
  }

  async #run(): Promise<void> {
    const gone = new Promise<void>((resolve) => this.#response.once('close', resolve));
    const { reply, started, result } = this.#stream;
    await started;
    await Promise.race([gone, this.#somethingToSay()]);
    if (this.#closed) return;
    // Of a reply that broke before it said anything a new reader is told by the status line, once that is stored.
    if (reply.end?.kind === 'broken' && reply.length === 0 && !this.#reading.resumed) await result;
    const everything = new Promise<void>((resolve) => {
      this.#caughtUp = resolve;
    });
    const unwatch = reply.watch(() => this.#pump());
    this.#begin();
    const heartbeat = setInterval(() => this.#ping(), jittered(this.#options.heartbeatMs));
    try {
      await Promise.race([gone, everything]);
      if (!this.#closed) await Promise.race([gone, this.#end()]);
    } finally {
      clearInterval(heartbeat);
      clearTimeout(this.#stall);
      unwatch();
    }
  }

  get #closed(): boolean {
    return this.#response.destroyed || this.#response.writableEnded;
  }

  /** Resolves with the first token, the end, or when it is time to open without either. */
  async #somethingToSay(): Promise<void> {
    const { reply } = this.#stream;
    if (this.#reading.resumed || !reply.running || reply.length > 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, this.#options.openMs);
      const unwatch = reply.watch(done);
      function done() {
        clearTimeout(timer);
        unwatch();
        resolve();
      }
    });
  }

  #begin(): void {
    const { conversationId, messageId, model } = this.#stream;
    const { format, cache, cached, resumed } = this.#reading;
    this.#response.writeHead(200, {
      ...streamHeaders(this.#stream),
      ...(cache && { 'Cache-Status': presentCacheUse(cache) }),
    });
    // Node frames a chunk by three writes that it gathers again; framed here it is one, which is what a stream of
    // many small events spends most of its time on. HTTP/1.0 has no chunks, and Node knows.
    this.#framed = this.#response.chunkedEncoding;
    this.#response.chunkedEncoding = false;
    const start = startEvent(messageId, this.#events.offset, RETRY_MS, {
      content: '',
      conversation_id: conversationId,
      stream_id: messageId,
      message_id: messageId,
      model,
      format,
      cached,
      ...(resumed && { offset: this.#events.offset }),
    });
    this.#open = true;
    this.#write(start + (this.#events.next() ?? ''));
    this.#pump();
  }

  #pump(): void {
    if (!this.#open) return;
    while (!this.#blocked && !this.#closed) {
      const events = this.#events.next();
      if (events === undefined) break;
      if (events !== '') this.#write(events);
    }
    if (!this.#blocked && !this.#stream.reply.running && this.#events.caughtUp) this.#caughtUp();
  }

  #write(events: string): void {
    if (this.#response.write(this.#frame(events))) return;
    this.#blocked = true;
    this.#stall = setTimeout(() => this.#response.destroy(), STALL_MS);
    this.#response.once('drain', () => {
      clearTimeout(this.#stall);
      this.#blocked = false;
      this.#pump();
    });
  }

  #frame(events: string): string {
    return this.#framed ? httpChunk(events) : events;
  }

  #ping(): void {
    if (!this.#blocked && !this.#closed) this.#response.write(this.#frame(PING));
  }

  /** Waits for the save, because the last event says whether there was one. */
  async #end(): Promise<void> {
    const rest = this.#events.rest();
    if (rest !== '') this.#write(rest);
    const result = await this.#stream.result.catch((error: unknown) => error);
    if (this.#closed) return;
    this.#response.end(this.#frame(this.#lastEvent(result)) + (this.#framed ? httpChunk('') : ''));
    if (this.#response.writableLength === 0) return;
    const stall = setTimeout(() => this.#response.destroy(), STALL_MS);
    this.#response.once('close', () => clearTimeout(stall));
  }

  #lastEvent(result: unknown): string {
    const { offset, missing, blocked } = this.#events;
    const length = offset - missing;
    // Of a blocked reply the reader may have more only because the words have changed since.
    if (missing > 0 && !blocked) return this.#cutEvent(length);
    if (!isResult(result)) return this.#errorEvent(result);
    const { usage, persisted } = result;
    const finishReason = blocked ? 'content_filter' : result.finishReason;
    const data = { content: '', finish_reason: finishReason, usage, persisted, length };
    return endEvent(this.#stream.messageId, length, 'done', data);
  }

  #errorEvent(fault: unknown): string {
    const { messageId: id } = this.#stream;
    const error = fault instanceof AppError ? fault : new AppError('internal', undefined, { cause: fault });
    const data = { content: '', ...this.#toProblem(error), finish_reason: 'error' };
    if (error.code !== 'shutting_down' || this.#events.offset === 0)
      return endEvent(id, this.#events.offset, 'error', data);
    // What was said is stored: another worker, or this one when it is back, tells it again.
    return endEvent(
      id,
      this.#events.offset,
      'error',
      { ...data, resume: `/api/chat-stream/${id}` },
      RETRY_MS,
    );
  }

  /** A crash has lost the end of what the reader has. */
  #cutEvent(length: number): string {
    const error = new AppError(
      'reply_cut',
      `A crash has cut this reply; ${length} characters of it are stored`,
    );
    const data = { content: '', ...this.#toProblem(error), finish_reason: 'error', length };
    return endEvent(this.#stream.messageId, length, 'error', data);
  }
}

/** The header fields of an event stream. */
export function streamHeaders({ conversationId, messageId }: ReplyStream): Record<string, string> {
  return {
    'Content-Type': 'text/event-stream; charset=utf-8',
    'Cache-Control': 'no-cache, no-transform',
    'X-Accel-Buffering': 'no',
    'X-Conversation-Id': conversationId,
    'X-Stream-Id': messageId,
  };
}

/** A little earlier than asked, differently for each: thousands of streams must not all ping at once. */
function jittered(ms: number): number {
  return ms * (1 - Math.random() / 4);
}

function isResult(value: unknown): value is TurnResult {
  return typeof value === 'object' && value !== null && !(value instanceof Error);
}
