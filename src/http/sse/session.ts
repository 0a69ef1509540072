import type { Response } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { TextStream } from '../../domain/ports.ts';
import type { Turn, TurnResult } from '../../services/chat.ts';
import { presentCacheUse } from '../presenters.ts';
import { contentEvent, contentPieces, endEvent, PING, startEvent } from './encode.ts';

/** What a reader should wait before it connects again, milliseconds. */
const RETRY_MS = 3000;
/** A reader that takes nothing for this long is let go; the reply is made and saved all the same. */
const STALL_MS = 60_000;

export interface SessionOptions {
  readonly heartbeatMs: number;
  /** Headers leave with the first token, or after this time. 0: as soon as the question is stored. */
  readonly openMs: number;
}

/**
 * One reader of one reply: sends what has come as soon as the connection takes it, remembers where it is, and keeps
 * nothing of its own. A reader that leaves changes nothing for the reply.
 */
export class StreamSession {
  readonly #response: Response;
  readonly #turn: Turn;
  readonly #format: 'markdown' | 'text';
  /** Undefined for Markdown, which goes out as it comes. */
  readonly #text: TextStream | undefined;
  readonly #options: SessionOptions;
  readonly #toProblem: (error: AppError) => object;
  /** Pieces of the reply that were taken. */
  #taken = 0;
  /** UTF-16 units of output that were sent. */
  #offset = 0;
  #open = false;
  #blocked = false;
  #stall: NodeJS.Timeout | undefined;
  #caughtUp: () => void = () => {};

  constructor(
    response: Response,
    turn: Turn,
    format: 'markdown' | 'text',
    text: TextStream | undefined,
    options: SessionOptions,
    toProblem: (error: AppError) => object,
  ) {
    this.#response = response;
    this.#turn = turn;
    this.#format = format;
    this.#text = text;
    this.#options = options;
    this.#toProblem = toProblem;
  }

  /**
   * Resolves when the stream has ended or the reader has gone.
   * @throws AppError as long as nothing has been sent: the caller still has the status line for it
   */
  async run(): Promise<void> {
    const gone = new Promise<void>((resolve) => this.#response.once('close', resolve));
    await this.#turn.started;
    await Promise.race([gone, this.#somethingToSay()]);
    const { error, pieces } = this.#turn.generation;
    if (this.#closed) return;
    if (error && pieces.length === 0) throw error;
    const everything = new Promise<void>((resolve) => {
      this.#caughtUp = resolve;
    });
    const unwatch = this.#turn.generation.watch(() => this.#pump());
    this.#begin();
    const heartbeat = setInterval(() => this.#ping(), this.#options.heartbeatMs);
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
    const { generation } = this.#turn;
    if (!generation.running || generation.pieces.length > 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, this.#options.openMs);
      const unwatch = generation.watch(done);
      function done() {
        clearTimeout(timer);
        unwatch();
        resolve();
      }
    });
  }

  #begin(): void {
    const { conversationId, messageId, model, cache } = this.#turn;
    this.#response.writeHead(200, {
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-cache, no-transform',
      'X-Accel-Buffering': 'no',
      'X-Conversation-Id': conversationId,
      'X-Stream-Id': messageId,
      'Cache-Status': presentCacheUse(cache),
    });
    const start = startEvent(messageId, this.#offset, RETRY_MS, {
      content: '',
      conversation_id: conversationId,
      stream_id: messageId,
      message_id: messageId,
      model,
      format: this.#format,
      cached: cache.kind === 'hit',
    });
    this.#open = true;
    this.#write(start + this.#takeEvents());
    this.#checkEnd();
  }

  #pump(): void {
    if (!this.#open || this.#blocked || this.#closed) return;
    const events = this.#takeEvents();
    if (events !== '') this.#write(events);
    this.#checkEnd();
  }

  #checkEnd(): void {
    const { generation } = this.#turn;
    if (!this.#blocked && !generation.running && this.#taken === generation.pieces.length) this.#caughtUp();
  }

  /** Everything that came since the last look, as events; empty when the text form holds it back for now. */
  #takeEvents(): string {
    const { pieces } = this.#turn.generation;
    const fresh =
      pieces.length - this.#taken === 1 ? pieces[this.#taken] : pieces.slice(this.#taken).join('');
    this.#taken = pieces.length;
    if (fresh === undefined || fresh === '') return '';
    return this.#encode(this.#text ? this.#text.push(fresh) : fresh);
  }

  #encode(output: string): string {
    let events = '';
    for (const piece of contentPieces(output)) {
      this.#offset += piece.length;
      events += contentEvent(this.#turn.messageId, this.#offset, piece);
    }
    return events;
  }

  #write(events: string): void {
    if (this.#response.write(events)) return;
    this.#blocked = true;
    this.#stall = setTimeout(() => this.#response.destroy(), STALL_MS);
    this.#response.once('drain', () => {
      clearTimeout(this.#stall);
      this.#blocked = false;
      this.#pump();
    });
  }

  #ping(): void {
    if (!this.#blocked && !this.#closed) this.#response.write(PING);
  }

  /** Waits for the save, because the last event says whether there was one. */
  async #end(): Promise<void> {
    const rest = this.#text ? this.#encode(this.#text.end()) : '';
    if (rest !== '') this.#write(rest);
    const result = await this.#turn.result.catch((error: unknown) => error);
    if (this.#closed) return;
    this.#response.end(this.#lastEvent(result));
    if (this.#response.writableLength === 0) return;
    const stall = setTimeout(() => this.#response.destroy(), STALL_MS);
    this.#response.once('close', () => clearTimeout(stall));
  }

  #lastEvent(result: unknown): string {
    const id = this.#turn.messageId;
    if (isResult(result)) {
      const { finishReason, usage, persisted } = result;
      const data = { content: '', finish_reason: finishReason, usage, persisted, length: this.#offset };
      return endEvent(id, this.#offset, 'done', data);
    }
    const error =
      result instanceof AppError ? result : new AppError('internal', undefined, { cause: result });
    return endEvent(id, this.#offset, 'error', {
      content: '',
      ...this.#toProblem(error),
      finish_reason: 'error',
    });
  }
}

function isResult(value: unknown): value is TurnResult {
  return typeof value === 'object' && value !== null && !(value instanceof Error);
}
