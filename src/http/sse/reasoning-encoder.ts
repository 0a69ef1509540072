import type { Reply } from '../../services/chat/reply.ts';
import { cut } from '../../util/pieces.ts';
import type { RenderedStream } from '../response/reply-renderer.ts';
import { MAX_CONTENT, type ReplyEvents } from './encode.ts';
import { PieceCursor } from './piece-cursor.ts';

/** Encodes the reasoning of a reply as events for one reader. */
export class ReasoningEncoder {
  readonly #reply: Reply;
  readonly #render: () => RenderedStream;
  readonly #events: Pick<ReplyEvents, 'reasoning'>;
  readonly #pieces: PieceCursor;
  /** Of the reasoning since the last text. */
  #rendered: RenderedStream | undefined;
  #hasSent = false;

  constructor(reply: Reply, render: () => RenderedStream, events: Pick<ReplyEvents, 'reasoning'>) {
    this.#events = events;
    this.#reply = reply;
    this.#render = render;
    this.#pieces = new PieceCursor((index) => reply.reasoningPiece(index));
  }

  get isCaughtUp(): boolean {
    return this.#pieces.count === this.#reply.reasoningCount;
  }

  /** Whether there is reasoning for the reader. */
  get hasToken(): boolean {
    return this.#reply.reasoningLength > 0;
  }

  get hasSent(): boolean {
    return this.#hasSent;
  }

  /** The next events. Undefined when there is no new reasoning. */
  next(): string | undefined {
    const part = this.#pieces.next();
    if (part === '') return undefined;
    this.#rendered ??= this.#render();
    return this.#encode(this.#rendered.push(part));
  }

  /** The events of what the rendering has held back, when text follows or the reply has ended. */
  rest(): string {
    if (!this.#rendered || this.#rendered.blocked) return '';
    const rest = this.#encode(this.#rendered.end());
    this.#rendered = undefined;
    return rest;
  }

  #encode(reasoning: string): string {
    let events = '';
    for (const piece of cut(reasoning, MAX_CONTENT)) events += this.#events.reasoning(piece);
    this.#hasSent ||= events !== '';
    return events;
  }
}
