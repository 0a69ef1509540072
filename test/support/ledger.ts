/** What callers were told, to be compared with what is stored: one entry for each question. */
import { piecesOf, plotOf } from './story.ts';

/** How a reply ended, as its reader or the caller of a whole reply was told. */
export type End =
  | { readonly kind: 'done'; readonly finishReason: string; readonly persisted: boolean }
  /** With code `reply_cut` also how much is stored, in units of its format. */
  | { readonly kind: 'error'; readonly code: string; readonly stored?: number };

interface Mark {
  readonly at: number;
  readonly length: number;
}

/** What may be missing of a running reply after its server was killed. */
const CHECKPOINT_MS = 1500;

/** What was told of one reply. */
export class Telling {
  streamId: string | undefined;
  /** Content units in the order in which they were shown, over all connections. */
  shown = '';
  lastId: string | undefined;
  end: End | undefined;
  readonly #marks: Mark[] = [];

  /** Takes note of the reply shown from its beginning up to here by one connection; false if it does not fit. */
  show(text: string): boolean {
    if (this.shown.startsWith(text)) return true;
    if (!text.startsWith(this.shown)) return false;
    this.shown = text;
    this.#marks.push({ at: performance.now(), length: text.length });
    return true;
  }

  /** The number of units shown, by monotonic time. */
  shownAt(at: number): number {
    return this.#marks.findLast((mark) => mark.at <= at)?.length ?? 0;
  }
}

/** A question, and what became of it. */
export class Entry {
  readonly question: string;
  /** The whole reply as the model gives it, were it not for faults. */
  readonly expected: string;
  readonly format: 'markdown' | 'text';
  readonly key: string | undefined;
  /** The body of the request: the same whenever it is repeated. */
  readonly body: string;
  /** Of the server that was asked, in its cluster. */
  readonly server: number;
  readonly askedAt = performance.now();
  conversationId: string | undefined;
  /** A `start` event or a whole reply has come: from then on the question must be stored. */
  acknowledgedAt: number | undefined;
  reply = new Telling();
  /** With a key: replies that broke, after which the same request was made again. */
  readonly broken: Telling[] = [];
  /** Status codes of answers that were no reply. */
  readonly refusals: number[] = [];
  /** Somebody asked for a stop, or for the deletion of the conversation, whatever the answer was. */
  stopAsked = false;
  deletion: 'none' | 'asked' | 'done' | 'not found' = 'none';
  /** Its server was told to stop, its connections to the model were cut, or the like: it may be incomplete. */
  mayBreak: boolean;
  /** From when on nothing of it could be written, and its caller was told so by an error. */
  unwritableSince: number | undefined;
  /** What was wrong at the time. */
  readonly problems: string[] = [];

  constructor(question: string, options: EntryOptions = {}) {
    this.question = question;
    this.expected = piecesOf(question).join('');
    this.format = options.format ?? 'markdown';
    this.key = options.key;
    this.server = options.server ?? 0;
    this.conversationId = options.conversationId;
    const { format, conversationId: conversation_id } = this;
    this.body = JSON.stringify({ message: question, conversation_id, format });
    this.mayBreak = plotOf(question).fault !== undefined;
  }

  get acknowledged(): boolean {
    return this.acknowledgedAt !== undefined;
  }

  get streamId(): string | undefined {
    return this.reply.streamId;
  }

  get shown(): string {
    return this.reply.shown;
  }

  get end(): End | undefined {
    return this.reply.end;
  }

  /** Takes note of which conversation and reply it is said to be. */
  acknowledge(conversationId: string, streamId: string): void {
    const { reply } = this;
    if (this.conversationId !== undefined && this.conversationId !== conversationId) {
      this.problems.push(`was in ${this.conversationId}, is said to be in ${conversationId}`);
    }
    if (reply.streamId !== undefined && reply.streamId !== streamId) this.#anew(streamId);
    this.conversationId = conversationId;
    this.reply.streamId = streamId;
    this.acknowledgedAt ??= performance.now();
  }

  /** Only the request with a key whose reply broke may be answered by another reply. */
  #anew(streamId: string): void {
    const { reply, key } = this;
    if (key === undefined || reply.end?.kind === 'done') {
      this.problems.push(`its reply was ${reply.streamId} and is said to be ${streamId}`);
    }
    this.broken.push(reply);
    this.reply = new Telling();
  }

  show(text: string): void {
    if (this.reply.show(text)) return;
    this.problems.push(`was shown ${excerpt(text, this.shown)} after something else`);
  }
}

export interface EntryOptions {
  readonly format?: 'markdown' | 'text';
  readonly key?: string;
  readonly server?: number;
  readonly conversationId?: string;
}

interface Crash {
  readonly server: number;
  readonly at: number;
  /** From when on nothing could be written any more: the crash itself, or something before it. */
  readonly writableUntil: number;
}

export class Ledger {
  readonly entries: Entry[] = [];
  /** Only then may a reply say that it is not persisted yet. */
  databaseWasAway = false;
  readonly #crashes: Crash[] = [];

  add(question: string, options: EntryOptions = {}): Entry {
    const entry = new Entry(question, options);
    this.entries.push(entry);
    return entry;
  }

  /** A server is about to be killed; `writableUntil` is earlier when the database had gone before. */
  crash(server: number, writableUntil = performance.now()): void {
    this.#crashes.push({ server, at: performance.now(), writableUntil });
  }

  /**
   * How much of a shown reply must be stored, in units: all of it, unless a crash of its server excuses the last
   * moments. Undefined: all.
   */
  durable(entry: Entry, reply: Telling = entry.reply): number | undefined {
    const crash = this.#crashes.find(
      ({ server, at }) => (server === entry.server || entry.key !== undefined) && at >= entry.askedAt,
    );
    const told = reply.end?.kind === 'error' ? entry.unwritableSince : undefined;
    const until = Math.min(
      crash?.writableUntil ?? Number.POSITIVE_INFINITY,
      told ?? Number.POSITIVE_INFINITY,
    );
    return until === Number.POSITIVE_INFINITY ? undefined : reply.shownAt(until - CHECKPOINT_MS);
  }

  /** Whether its server crashed after it was asked, so that no end may have been made. */
  crashed(entry: Entry): boolean {
    return this.durable(entry) !== undefined;
  }
}

/** Where a text goes off the other, short enough to be read. */
export function excerpt(text: string, other: string): string {
  let at = 0;
  while (at < text.length && text[at] === other[at]) at += 1;
  const from = Math.max(0, at - 10);
  const show = (whole: string) => JSON.stringify(whole.slice(from, at + 20));
  return `${show(text)} instead of ${show(other)} at ${at} (${text.length} and ${other.length} units)`;
}
