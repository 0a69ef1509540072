import type { Reply } from '../../services/chat/reply.ts';
import type { RenderedStream } from '../response/reply-renderer.ts';
import { contentEvent, contentPieces, replayPieceSize } from './encode.ts';

/**
 * How much of the reply is made into events at once, UTF-16 units. A slow reader of a long reply so holds no second
 * copy of it, and has the time of a stall for each part instead of for all that is left.
 */
const PART = 64 * 1024;

export interface ReplyForm {
  /** Undefined: it goes out as it comes. */
  readonly shown: RenderedStream | undefined;
  /** UTF-16 units of output that the reader has: they are made again, since the form needs them, and passed over. */
  readonly from: number;
}

/** One reader's way through a reply: what it gets next, and where it is. */
export class SseReplyEncoder {
  readonly #id: string;
  readonly #reply: Reply;
  readonly #shown: RenderedStream | undefined;
  /** Of the events' contents; undefined: as they come. */
  readonly #pieceSize: number | undefined;
  /** Pieces of the reply that were taken, and how much of the next one. */
  #taken = 0;
  #within = 0;
  #skip: number;
  #offset: number;

  constructor(id: string, reply: Reply, { shown, from }: ReplyForm) {
    this.#id = id;
    this.#reply = reply;
    this.#shown = shown;
    this.#skip = from;
    this.#offset = from;
    this.#pieceSize = reply.running ? undefined : replayPieceSize(reply.length);
  }

  /** UTF-16 units of output that the reader has after what it was given. */
  get offset(): number {
    return this.#offset;
  }

  /** How much the reader had more than there is; to be asked after the end. */
  get missing(): number {
    return this.#skip;
  }

  /** Whether what the reader gets has ended, though the reply may go on. */
  get blocked(): boolean {
    return this.#shown?.blocked ?? false;
  }

  /** Whether everything that was said so far has been given. */
  get caughtUp(): boolean {
    return this.#taken === this.#reply.count;
  }

  /** The next events; empty when the form holds all of it back for now; undefined when there is nothing new. */
  next(): string | undefined {
    const part = this.#part();
    if (part === '') return undefined;
    return this.#eventsOf(this.#shown ? this.#shown.push(part) : part);
  }

  /** What the form has held back; after the end. */
  rest(): string {
    return this.#shown ? this.#eventsOf(this.#shown.end()) : '';
  }

  /** What came since the last look, at most PART of it; empty when there is nothing new. */
  #part(): string {
    let part = '';
    for (
      let piece = this.#reply.piece(this.#taken);
      piece !== undefined;
      piece = this.#reply.piece(this.#taken)
    ) {
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

  #eventsOf(output: string): string {
    let events = '';
    for (const piece of contentPieces(this.#skip === 0 ? output : this.#unread(output), this.#pieceSize)) {
      this.#offset += piece.length;
      events += contentEvent(this.#id, this.#offset, piece);
    }
    return events;
  }

  #unread(output: string): string {
    const known = Math.min(this.#skip, output.length);
    this.#skip -= known;
    const unread = output.slice(known);
    if (this.#skip > 0 || !startsInsidePair(unread)) return unread;
    // No event ever ended there; the half is passed over, so that at least what follows is text.
    this.#offset += 1;
    return unread.slice(1);
  }
}

function startsInsidePair(text: string): boolean {
  const first = text.charCodeAt(0);
  return first >= 0xdc00 && first <= 0xdfff;
}
