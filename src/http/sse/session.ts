import type { Response } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { TextStream } from '../../domain/ports.ts';
import type { Turn, TurnResult } from '../../services/chat.ts';
import { presentCacheUse } from '../presenters.ts';
import {
  contentEvent,
  contentPieces,
  endEvent,
  httpChunk,
  PING,
  replayPieceSize,
  startEvent,
} from './encode.ts';

/** What a reader should wait before it connects again, milliseconds. */
const RETRY_MS = 3000;
/** A reader that takes nothing for this long is let go; the reply is made and saved all the same. */
const STALL_MS = 60_000;
/**
 * How much of the reply is made into events at once, UTF-16 units. A slow reader of a long reply so holds no second
 * copy of it, and has the time above for each part instead of for all that is left.
 */
const PART = 64 * 1024;

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
  /** Pieces of the reply that were taken, and how much of the next one. */
  #taken = 0;
  #within = 0;
  /** Of the events' contents; undefined: as they come. */
  readonly #pieceSize: number | undefined;
  /** UTF-16 units of output that were sent. */
  #offset = 0;
  #open = false;
  /** Whether the body is in HTTP/1.1 chunks, which are then made here. */
  #framed = false;
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
    this.#pieceSize = turn.cache.kind === 'hit' ? replayPieceSize(turn.generation.text.length) : undefined;
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
    // Node frames a chunk by three writes that it gathers again; framed here it is one, which is what a stream of
    // many small events spends most of its time on. HTTP/1.0 has no chunks, and Node knows.
    this.#framed = this.#response.chunkedEncoding;
    this.#response.chunkedEncoding = false;
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
    this.#write(start + this.#encode(this.#part()));
    this.#pump();
  }

  #pump(): void {
    if (!this.#open) return;
    while (!this.#blocked && !this.#closed) {
      const fresh = this.#part();
      if (fresh === '') break;
      const events = this.#encode(fresh);
      if (events !== '') this.#write(events);
    }
    this.#checkEnd();
  }

  #checkEnd(): void {
    const { generation } = this.#turn;
    if (!this.#blocked && !generation.running && this.#taken === generation.pieces.length) this.#caughtUp();
  }

  /** What came since the last look, at most PART of it; empty when there is nothing new. */
  #part(): string {
    const { pieces } = this.#turn.generation;
    let part = '';
    for (let piece = pieces[this.#taken]; piece !== undefined; piece = pieces[this.#taken]) {
      const room = PART - part.length;
      const rest = this.#within === 0 ? piece : piece.slice(this.#within);
      if (rest.length > room) {
        const [head = ''] = contentPieces(rest, room);
        this.#within += head.length;
        return part + head;
      }
      part += rest;
      this.#taken += 1;
      this.#within = 0;
    }
    return part;
  }

  /** As events; none when the text form holds all of it back for now. */
  #encode(markdown: string): string {
    if (markdown === '') return '';
    return this.#eventsOf(this.#text ? this.#text.push(markdown) : markdown);
  }

  #eventsOf(output: string): string {
    let events = '';
    for (const piece of contentPieces(output, this.#pieceSize)) {
      this.#offset += piece.length;
      events += contentEvent(this.#turn.messageId, this.#offset, piece);
    }
    return events;
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
    const rest = this.#text ? this.#eventsOf(this.#text.end()) : '';
    if (rest !== '') this.#write(rest);
    const result = await this.#turn.result.catch((error: unknown) => error);
    if (this.#closed) return;
    this.#response.end(this.#frame(this.#lastEvent(result)) + (this.#framed ? httpChunk('') : ''));
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

/** A little earlier than asked, differently for each: thousands of streams must not all ping at once. */
function jittered(ms: number): number {
  return ms * (1 - Math.random() / 4);
}

function isResult(value: unknown): value is TurnResult {
  return typeof value === 'object' && value !== null && !(value instanceof Error);
}
