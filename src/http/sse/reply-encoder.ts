import type { Reply } from '../../services/chat/reply.ts';
import { cut } from '../../util/pieces.ts';
import type { RenderedStream } from '../response/reply-renderer.ts';
import { MAX_CONTENT, type ReplyEvents, replayPieceSize } from './encode.ts';
import { PieceCursor } from './piece-cursor.ts';
import { ReasoningEncoder } from './reasoning-encoder.ts';

export interface EncoderOptions {
  /** Undefined: the reply is sent as the model wrote it. */
  readonly rendered: RenderedStream | undefined;
  /** Undefined: the reader gets no reasoning. */
  readonly reasoning: (() => RenderedStream) | undefined;
  /** Resume after so many UTF-16 units of output. They are rendered again, because the rendering has state. */
  readonly offset: number;
}

/** Encodes a reply as events for one reader, and keeps the reader's position. */
export class SseReplyEncoder {
  readonly #events: ReplyEvents;
  readonly #reply: Reply;
  readonly #rendered: RenderedStream | undefined;
  readonly #reasoning: ReasoningEncoder | undefined;
  /** Maximum content of an event. */
  readonly #pieceSize: number;
  readonly #pieces: PieceCursor;
  readonly #from: number;
  /** Units of output that are still to be skipped. */
  #skip: number;
  #offset: number;

  constructor(reply: Reply, { rendered, reasoning, offset }: EncoderOptions, events: ReplyEvents) {
    this.#events = events;
    this.#reply = reply;
    this.#rendered = rendered;
    this.#reasoning = reasoning && new ReasoningEncoder(reply, reasoning, events);
    this.#pieces = new PieceCursor((index) => reply.piece(index));
    this.#from = offset;
    this.#skip = offset;
    this.#offset = offset;
    this.#pieceSize = reply.running ? MAX_CONTENT : replayPieceSize(reply.length);
  }

  /** UTF-16 units of output that the reader has after the events so far. */
  get offset(): number {
    return this.#offset;
  }

  /** After the end: how much longer the reader's output was than the reply is. */
  get missing(): number {
    return this.#skip;
  }

  /** Whether the content filter has ended the output. The reply itself may continue. */
  get blocked(): boolean {
    return this.#rendered?.blocked ?? false;
  }

  /** Whether everything that the reply has so far is encoded. */
  get isCaughtUp(): boolean {
    return this.#pieces.count === this.#reply.count && (this.#reasoning?.isCaughtUp ?? true);
  }

  /** Whether events of text or reasoning are encoded. */
  get hasSentToken(): boolean {
    return this.#offset > this.#from || (this.#reasoning?.hasSent ?? false);
  }

  /** Whether the reply has anything for the reader. */
  get hasToken(): boolean {
    return this.#reply.length > 0 || (this.#reasoning?.hasToken ?? false);
  }

  /**
   * The next events, of at most MAX_STEP units of the reply: a slow reader of a long reply then needs no second copy of
   * it, and the stall timeout applies to each part instead of to the whole rest. Empty while the rendering holds the text
   * back; undefined when there is no new text. Reasoning comes before text.
   */
  next(): string | undefined {
    const reasoning = this.#reasoning?.next();
    if (reasoning !== undefined) return reasoning;
    const part = this.#pieces.next();
    if (part === '') return undefined;
    const events = this.#encode(this.#rendered ? this.#rendered.push(part) : part);
    return this.#reasoning ? this.#reasoning.rest() + events : events;
  }

  /** The events of the text that the rendering has held back, after the end. */
  rest(): string {
    const reasoning = this.#reasoning?.rest() ?? '';
    return this.#rendered ? reasoning + this.#encode(this.#rendered.end()) : reasoning;
  }

  #encode(output: string): string {
    let events = '';
    for (const piece of cut(this.#skip === 0 ? output : this.#unread(output), this.#pieceSize)) {
      this.#offset += piece.length;
      events += this.#events.content(piece, this.#offset);
    }
    return events;
  }

  /** The part of the output that the reader does not have. */
  #unread(output: string): string {
    const read = Math.min(this.#skip, output.length);
    this.#skip -= read;
    const unread = output.slice(read);
    if (this.#skip > 0 || !startsInsidePair(unread)) return unread;
    // No event ends inside a surrogate pair, so this offset was made up. The lone half is skipped.
    this.#offset += 1;
    return unread.slice(1);
  }
}

function startsInsidePair(text: string): boolean {
  const first = text.charCodeAt(0);
  return first >= 0xdc00 && first <= 0xdfff;
}
