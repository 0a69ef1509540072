/** Records what callers received, for a comparison with the database: one entry for each question. */
import { piecesOf, plotOf } from './story.ts';

/** The end of a reply, as its caller received it. */
export type End =
  | { readonly kind: 'done'; readonly finishReason: string; readonly persisted: boolean }
  /** `stored`, for code `reply_cut`: the length of the stored text, in UTF-16 units of the format. */
  | { readonly kind: 'error'; readonly code: string; readonly stored?: number };

interface Mark {
  readonly at: number;
  readonly length: number;
}

/** Text that was sent in this time before a crash may be missing. */
const CHECKPOINT_MS = 1500;

/** What the caller received of one reply. */
export class ReceivedReply {
  streamId: string | undefined;
  /** The received text, over all connections. */
  shown = '';
  lastId: string | undefined;
  end: End | undefined;
  readonly #marks: Mark[] = [];

  /** Records the text from the beginning that one connection has received; false if it contradicts earlier text. */
  show(text: string): boolean {
    if (this.shown.startsWith(text)) return true;
    if (!text.startsWith(this.shown)) return false;
    this.shown = text;
    this.#marks.push({ at: performance.now(), length: text.length });
    return true;
  }

  /** How many UTF-16 units were received before this time of the monotonic clock. */
  shownAt(at: number): number {
    return this.#marks.findLast((mark) => mark.at <= at)?.length ?? 0;
  }
}

/** A question, its request, and what its caller received. */
export class Entry {
  readonly question: string;
  /** The whole reply of the model, without faults. */
  readonly expected: string;
  readonly format: 'markdown' | 'text';
  readonly key: string | undefined;
  /** The body of the request, which is the same for each repetition. */
  readonly body: string;
  /** The index of the server in its cluster. */
  readonly server: number;
  readonly askedAt = performance.now();
  conversationId: string | undefined;
  /** When a `start` event or a whole reply came. From then on the question must be stored. */
  acknowledgedAt: number | undefined;
  reply = new ReceivedReply();
  /** With a key: failed replies, after which the request was repeated. */
  readonly broken: ReceivedReply[] = [];
  /** Status codes of error responses. */
  readonly refusals: number[] = [];
  /** Whether a caller requested a stop, whatever the response was. */
  stopAsked = false;
  deletion: 'none' | 'asked' | 'done' | 'not found' = 'none';
  /** Whether a fault may leave the reply incomplete, such as a stopped server or a cut connection to the model. */
  mayBreak: boolean;
  /** Since when the server could store nothing of it, if its caller got an error about that. */
  unwritableSince: number | undefined;
  /** Problems that were found while the responses were read. */
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

  /** Records the ids of conversation and reply that the server sent. */
  acknowledge(conversationId: string, streamId: string): void {
    const { reply } = this;
    if (this.conversationId !== undefined && this.conversationId !== conversationId) {
      this.problems.push(`was in ${this.conversationId}, is said to be in ${conversationId}`);
    }
    if (reply.streamId !== undefined && reply.streamId !== streamId) this.#replaceReply(streamId);
    this.conversationId = conversationId;
    this.reply.streamId = streamId;
    this.acknowledgedAt ??= performance.now();
  }

  /** A second reply is allowed only for a request with a key whose first reply failed. */
  #replaceReply(streamId: string): void {
    const { reply, key } = this;
    if (key === undefined || reply.end?.kind === 'done') {
      this.problems.push(`its reply was ${reply.streamId} and is said to be ${streamId}`);
    }
    this.broken.push(reply);
    this.reply = new ReceivedReply();
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
  /** The last time when the server could write to the database: that of the crash, or earlier. */
  readonly writableUntil: number;
}

export class Ledger {
  readonly entries: Entry[] = [];
  /** Whether the database had an outage. Only then a reply may have `persisted: false`. */
  databaseWasAway = false;
  readonly #crashes: Crash[] = [];

  add(question: string, options: EntryOptions = {}): Entry {
    const entry = new Entry(question, options);
    this.entries.push(entry);
    return entry;
  }

  /**
   * Records that a server is going to be killed. `writableUntil` is earlier if the database became unavailable before.
   */
  crash(server: number, writableUntil = performance.now()): void {
    this.#crashes.push({ server, at: performance.now(), writableUntil });
  }

  /**
   * How many UTF-16 units of a received reply must be stored. After a crash of its server the last moments may be
   * missing. Undefined: all must be stored.
   */
  durable(entry: Entry, reply: ReceivedReply = entry.reply): number | undefined {
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

  /** Whether its server crashed after the request, so that the reply may have no end. */
  crashed(entry: Entry): boolean {
    return this.durable(entry) !== undefined;
  }
}

/** A short message with the first difference of two texts. */
export function excerpt(text: string, other: string): string {
  let at = 0;
  while (at < text.length && text[at] === other[at]) at += 1;
  const from = Math.max(0, at - 10);
  const show = (whole: string) => JSON.stringify(whole.slice(from, at + 20));
  return `${show(text)} instead of ${show(other)} at ${at} (${text.length} and ${other.length} units)`;
}
