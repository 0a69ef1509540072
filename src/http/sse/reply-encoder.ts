import type { Reply } from '../../services/chat/reply.ts';
import { MAX_STEP } from '../../util/pieces.ts';
import type { RenderedStream } from '../response/reply-renderer.ts';
import { contentEvent, contentPieces, replayPieceSize } from './encode.ts';

export interface EncoderOptions {
  /** Undefined: the reply is sent as the model wrote it. */
  readonly rendered: RenderedStream | undefined;
  /** Resume after so many UTF-16 units of output. They are rendered again, because the rendering has state. */
  readonly offset: number;
}

/** Encodes a reply as events for one reader, and keeps the reader's position. */
export class SseReplyEncoder {
  readonly #id: string;
  readonly #reply: Reply;
  readonly #rendered: RenderedStream | undefined;
  /** Maximum content of an event; undefined: the default. */
  readonly #pieceSize: number | undefined;
  /** The next piece of the reply, and where to continue inside it. */
  #pieceIndex = 0;
  #pieceOffset = 0;
  /** Units of output that are still to be skipped. */
  #skip: number;
  #offset: number;

  constructor(id: string, reply: Reply, { rendered, offset }: EncoderOptions) {
    this.#id = id;
    this.#reply = reply;
    this.#rendered = rendered;
    this.#skip = offset;
    this.#offset = offset;
    this.#pieceSize = reply.running ? undefined : replayPieceSize(reply.length);
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
    return this.#pieceIndex === this.#reply.count;
  }

  /**
   * The next events, of at most MAX_STEP units of the reply: a slow reader of a long reply then needs no second copy of
   * it, and the stall timeout applies to each part instead of to the whole rest. Empty while the rendering holds the text
   * back; undefined when there is no new text.
   */
  next(): string | undefined {
    const part = this.#nextPart();
    if (part === '') return undefined;
    return this.#encode(this.#rendered ? this.#rendered.push(part) : part);
  }

  /** The events of the text that the rendering has held back, after the end. */
  rest(): string {
    return this.#rendered ? this.#encode(this.#rendered.end()) : '';
  }

  #nextPart(): string {
    let part = '';
    for (
      let piece = this.#reply.piece(this.#pieceIndex);
      piece !== undefined;
      piece = this.#reply.piece(this.#pieceIndex)
    ) {
      const room = MAX_STEP - part.length;
      const rest = this.#pieceOffset === 0 ? piece : piece.slice(this.#pieceOffset);
      if (rest.length > room) {
        const [head = ''] = contentPieces(rest, room);
        this.#pieceOffset += head.length;
        return part + head;
      }
      part += rest;
      this.#pieceIndex += 1;
      this.#pieceOffset = 0;
    }
    return part;
  }

  #encode(output: string): string {
    let events = '';
    for (const piece of contentPieces(this.#skip === 0 ? output : this.#unread(output), this.#pieceSize)) {
      this.#offset += piece.length;
      events += contentEvent(this.#id, this.#offset, piece);
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
