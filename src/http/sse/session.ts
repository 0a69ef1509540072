import type { Response } from 'express';
import { AppError } from '../../domain/errors.ts';
import type { Metrics } from '../../domain/metrics.ts';
import type { Turn, TurnResult } from '../../services/chat/turn.ts';
import { noteDetails, noteTurn } from '../response/request-details.ts';
import { type ChunkFraming, takeOverChunking } from './chunk-framing.ts';
import { PING } from './encode.ts';
import type { SseReplyEncoder } from './reply-encoder.ts';

/** Readers that take nothing for this long are disconnected. The reply is still generated and saved. */
const STALL_MS = 60_000;

export interface SessionSettings {
  readonly heartbeatMs: number;
  /** The response starts with the first token, or after this time. 0: as soon as the user message is stored. */
  readonly openMs: number;
  readonly metrics: Pick<Metrics, 'streamOpened' | 'streamClosed'>;
}

/** How a reply is written as a stream of events. */
export interface StreamForm {
  readonly encoder: Pick<SseReplyEncoder, 'next' | 'rest' | 'isCaughtUp' | 'hasToken' | 'hasSentToken'>;
  /** The header fields, when the response starts. */
  headers(): Record<string, string>;
  /** What comes before the reply. */
  start(): string;
  /** What comes after it. */
  end(result: PromiseSettledResult<TurnResult>, firstTokenAt: number | undefined): string;
}

/**
 * Streams a reply to one reader. It sends what is there as fast as the connection takes it, and buffers nothing
 * itself. A reader that leaves does not affect the reply.
 */
export class StreamSession {
  readonly #response: Response;
  readonly #stream: Turn;
  readonly #form: StreamForm;
  readonly #encoder: StreamForm['encoder'];
  readonly #resumed: boolean;
  readonly #settings: SessionSettings;
  /** Undefined until the response has started. */
  #framing: ChunkFraming | undefined;
  #waitsForDrain = false;
  /** Set while the event loop serves others between two parts of the reply. */
  #pause: NodeJS.Immediate | undefined;
  #stall: NodeJS.Timeout | undefined;
  #onCaughtUp: () => void = () => {};
  #firstTokenAt: number | undefined;

  /** @param resumed whether the reply was begun for an earlier request: the response then waits for no token */
  constructor(
    response: Response,
    stream: Turn,
    form: StreamForm,
    resumed: boolean,
    settings: SessionSettings,
  ) {
    this.#response = response;
    this.#stream = stream;
    this.#form = form;
    this.#encoder = form.encoder;
    this.#resumed = resumed;
    this.#settings = settings;
  }

  /**
   * Resolves when the stream has ended or the reader has left.
   * @throws AppError before the response has started, so that the status line can carry it
   */
  async run(): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      if (this.#response.closed) resolve();
      else this.#response.once('close', resolve);
    });
    noteTurn(this.#response, this.#stream);
    this.#stream.reply.readers += 1;
    this.#settings.metrics.streamOpened();
    try {
      await this.#untilFirstToken(closed);
      if (!this.#isClosed) await this.#send(closed);
    } finally {
      this.#settings.metrics.streamClosed();
      this.#stream.reply.readers -= 1;
      this.#stream.release();
    }
  }

  get #isClosed(): boolean {
    return this.#response.destroyed || this.#response.writableEnded;
  }

  async #untilFirstToken(closed: Promise<void>): Promise<void> {
    const { reply, started, result } = this.#stream;
    const resumed = this.#resumed;
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
    this.#response.writeHead(200, this.#form.headers());
    this.#framing = takeOverChunking(this.#response);
    this.#write(this.#form.start() + (this.#encoder.next() ?? ''));
    this.#pumpLaterOrEnd();
  }

  /** Writes one part in each tick, until the connection is full or there is no new text. */
  #pump(): void {
    if (!this.#framing || this.#pause || this.#waitsForDrain || this.#isClosed) return;
    const events = this.#encoder.next();
    if (events !== undefined && events !== '') this.#write(events);
    this.#pumpLaterOrEnd();
  }

  #pumpLaterOrEnd(): void {
    if (this.#waitsForDrain) return;
    if (this.#encoder.isCaughtUp) {
      if (!this.#stream.reply.running) this.#onCaughtUp();
      return;
    }
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
    this.#response.end(this.#frame(this.#form.end(result, this.#firstTokenAt)) + (this.#framing?.end ?? ''));
    if (this.#response.writableLength === 0) return;
    const stall = this.#stallTimer();
    this.#response.once('close', () => clearTimeout(stall));
  }
}

/** Up to a quarter earlier, so that the pings of many streams are spread. */
function jittered(ms: number): number {
  return ms * (1 - Math.random() / 4);
}
