/** What callers were told, to be compared with what is stored: one entry for each question. */
import { piecesOf, plotOf } from './story.ts';

/** How a reply ended, as its reader or the caller of a whole reply was told. */
export type End =
  | { readonly kind: 'done'; readonly finishReason: string; readonly persisted: boolean }
  | { readonly kind: 'error'; readonly code: string };

interface Mark {
  readonly at: number;
  readonly length: number;
}

/** What may be missing of a running reply after its server was killed. */
const CHECKPOINT_MS = 1500;

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
  conversationId: string | undefined;
  streamId: string | undefined;
  /** A `start` event or a whole reply has come: from then on the question must be stored. */
  acknowledged = false;
  /** Content units in the order in which they were shown, over all connections. */
  shown = '';
  lastId: string | undefined;
  end: End | undefined;
  /** Status codes of answers that were no reply. */
  readonly refusals: number[] = [];
  /** Somebody asked for a stop, or for the deletion of the conversation, whatever the answer was. */
  stopAsked = false;
  deletion: 'none' | 'asked' | 'done' = 'none';
  /** Its server was told to stop, its connections to the model were cut, or the like: it may be incomplete. */
  mayBreak = false;
  /** What was wrong at the time. */
  readonly problems: string[] = [];
  readonly #marks: Mark[] = [];

  constructor(question: string, options: EntryOptions) {
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

  /** Takes note of the reply shown from its beginning up to here by one connection. */
  show(text: string): void {
    if (this.shown.startsWith(text)) return;
    if (!text.startsWith(this.shown)) {
      this.problems.push(`was shown ${excerpt(text, this.shown)} after something else`);
      return;
    }
    this.shown = text;
    this.#marks.push({ at: performance.now(), length: text.length });
  }

  /** How many units had been shown at a time on the monotonic clock. */
  shownAt(at: number): number {
    return this.#marks.findLast((mark) => mark.at <= at)?.length ?? 0;
  }

  get began(): number {
    return this.#marks[0]?.at ?? Number.POSITIVE_INFINITY;
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
  /** From when on nothing could be written any more, before the crash itself. */
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
   * How much of the shown reply must be stored, in units: all of it, unless a crash of its server excuses the last
   * moments. Undefined: all.
   */
  durable(entry: Entry): number | undefined {
    const crash = this.#crashes.find(
      ({ server, at }) => (server === entry.server || entry.key !== undefined) && at >= entry.began,
    );
    return crash && entry.shownAt(Math.min(crash.at, crash.writableUntil) - CHECKPOINT_MS);
  }

  /** Whether its server crashed at any time after the question was handed in, so that no end may have been made. */
  crashed(entry: Entry): boolean {
    return this.#crashes.some(({ server }) => server === entry.server || entry.key !== undefined);
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
