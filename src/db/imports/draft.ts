/** The statements that write one imported conversation. */
import { historyStart, storedForm } from '../../domain/conversations/history.ts';
import {
  ImportError,
  type ImportedConversation,
  type ImportedMessage,
  type ImportOptions,
  type ImportOutcome,
} from '../../domain/conversations/imports.ts';
import { hashOf } from '../../util/hash-chain.ts';
import { fromChanges, fromMessage, MESSAGE_INSERT_COLUMNS, toTime } from '../core/codec.ts';
import { type LockedConversation, placeholders, repeated } from '../core/dialect.ts';
import type { Statement } from '../core/packets.ts';
import { isUnfinished, markUnfinished, UNFINISHED_EPOCH } from '../repositories/unfinished.ts';
import { UNKNOWN_HISTORY } from '../turns/history-chain.ts';
import { messageChars } from '../turns/text-parts.ts';

/** Messages of one statement, and its UTF-16 units; on SQLite a statement blocks the event loop. */
const SLICE = 50;
const SLICE_CHARS = 100_000;
/** Of a row beside its texts. */
const ROW_CHARS = 300;
const ROW_BYTES = 2048;
/** At most: a control character is escaped in JSON. */
const BYTES_PER_CHAR = 6;

const COLUMNS = `${MESSAGE_INSERT_COLUMNS}, rating, rating_comment`.split(', ');

type Row = readonly (string | number | null)[];

export interface Slice {
  readonly uids: readonly string[];
  /** Without the epoch and `seq`, which follow from the conversation that exists. */
  readonly rows: readonly Row[];
  /** Messages in the slices before. */
  readonly from: number;
}

interface NumberedRow {
  readonly row: Row;
  readonly seq: number;
}

/** A conversation whose id is free: the statements before and after its messages, and the rows of these. */
export interface WholeConversation {
  readonly begin: readonly Statement[];
  readonly rows: readonly NumberedRow[];
  readonly end: readonly Statement[];
}

/** The messages of all conversations share statements. */
export function wholeWrites(all: readonly WholeConversation[]): Statement[] {
  const rows = all.flatMap((one) => one.rows);
  const slices = Array.from({ length: Math.ceil(rows.length / SLICE) }, (_, at) =>
    insertRows(rows.slice(at * SLICE, (at + 1) * SLICE), 0),
  );
  return [...all.flatMap(({ begin }) => begin), ...slices, ...all.flatMap(({ end }) => end)];
}

/** Only columns with a value: each null takes as long as a short text. */
function insertRows(rows: readonly NumberedRow[], epoch: number): Statement {
  const used = [...COLUMNS.keys()].filter((column) => rows.some(({ row }) => row[column] !== null));
  const names = used.map((column) => COLUMNS[column]);
  const tuple = `(${placeholders(used.length + 1)}, ${epoch})`;
  const sql = `INSERT INTO messages (${names.join(', ')}, seq, epoch) VALUES ${repeated(tuple, rows.length)}`;
  const bindings = rows.flatMap(({ row, seq }) => [...used.map((column) => row[column] ?? null), seq]);
  return { sql, bindings };
}

/** Reads the messages of a conversation once. */
export class Draft {
  readonly id: string;
  readonly #conversation: ImportedConversation;
  readonly #options: ImportOptions;
  readonly #maxBytes: number;
  readonly #now = toTime(Date.now());
  /** Ratings of the replies, by question. */
  readonly #ratings = new Map<string, string>();
  /** The forms of its visible messages, unless it is long. */
  readonly #forms: string[] = [];
  #isRestart = false;
  epoch = 0;
  /** The greatest `seq` before the import. */
  #lastSeq = 0;
  count = 0;

  constructor(conversation: ImportedConversation, options: ImportOptions, maxBytes: number) {
    this.id = conversation.id;
    this.#conversation = conversation;
    this.#options = options;
    this.#maxBytes = maxBytes;
  }

  begin(found: LockedConversation | undefined): {
    readonly outcome: ImportOutcome;
    readonly writes: readonly Statement[];
  } {
    const exists = found !== undefined && found.deleted_at === null;
    if (exists && !this.#options.replace) return { outcome: 'skipped', writes: [] };
    this.#isRestart = found !== undefined;
    this.epoch = found ? found.epoch + (exists ? 1 : 0) : 0;
    this.#lastSeq = found?.last_seq ?? 0;
    const owner = exists && !this.#options.replacesOwner ? found.owner : this.#options.owner;
    const save = found ? this.#restart(owner) : this.#insert(owner);
    const writes = exists ? [this.#hide(), save] : [save];
    return { outcome: exists ? 'replaced' : 'imported', writes };
  }

  get replaces(): boolean {
    return this.#options.replace;
  }

  /** Whether a long conversation is still the one that {@link beginUnfinished} has begun. */
  owns(found: LockedConversation): boolean {
    return isUnfinished(found, this.#now);
  }

  /** The start of a long conversation whose id is free. */
  beginUnfinished(): Statement[] {
    const hidden = { epoch: UNFINISHED_EPOCH, deleted_at: this.#now };
    return [this.#insert(this.#options.owner, hidden), markUnfinished(this.id, Date.now())];
  }

  /** @throws ImportError */
  async whole(): Promise<WholeConversation> {
    const rows: NumberedRow[] = [];
    for await (const slice of this.slices()) rows.push(...this.#numbered(slice));
    return { begin: this.begin(undefined).writes, rows, end: this.end() };
  }

  async *slices(): AsyncGenerator<Slice> {
    let uids: string[] = [];
    let rows: Row[] = [];
    let chars = 0;
    for await (const message of this.#conversation.messages) {
      const size = ROW_CHARS + messageChars(message);
      if (rows.length === SLICE || (rows.length > 0 && chars + size > SLICE_CHARS)) {
        yield { uids, rows, from: this.count - rows.length };
        [uids, rows, chars] = [[], [], 0];
      }
      if (size * BYTES_PER_CHAR > this.#maxBytes) this.#checkSize(message);
      uids.push(message.uid);
      rows.push(this.#row(message));
      chars += size;
      this.count += 1;
      this.#remember(message);
      this.#rate(message);
    }
    if (rows.length > 0) yield { uids, rows, from: this.count - rows.length };
  }

  /**
   * Rows of an earlier epoch that are not removed yet can have the same ids. The + makes SQLite use the index of the ids
   * instead of reading the whole conversation; MySQL ignores it.
   */
  insert(slice: Slice): Statement[] {
    const insert = insertRows(this.#numbered(slice), this.epoch);
    if (!this.#isRestart) return [insert];
    const { uids } = slice;
    const remove = {
      sql: `DELETE FROM messages WHERE uid IN (${placeholders(uids.length)}) AND +conversation_id = ? AND epoch < ?`,
      bindings: [...uids, this.id, this.epoch],
    };
    return [remove, insert];
  }

  /** The transaction must have locked the conversation. */
  end(): Statement[] {
    if (!this.#conversation.isLong) return this.ratings();
    const sql = 'UPDATE conversations SET last_seq = ? WHERE id = ?';
    return [{ sql, bindings: [this.#lastSeq + this.count, this.id] }, ...this.ratings()];
  }

  /** Questions are marked with the ratings of their replies, as feedback does. */
  ratings(): Statement[] {
    const statements: Statement[] = [];
    for (const [rating, rated] of Map.groupBy(this.#ratings, ([, rating]) => rating)) {
      for (let from = 0; from < rated.length; from += SLICE) {
        const uids = rated.slice(from, from + SLICE).map(([uid]) => uid);
        statements.push({
          sql: `UPDATE messages SET rating = ?
            WHERE uid IN (${placeholders(uids.length)}) AND +conversation_id = ? AND epoch = ?`,
          bindings: [rating, ...uids, this.id, this.epoch],
        });
      }
    }
    return statements;
  }

  #numbered({ rows, from }: Slice): NumberedRow[] {
    const first = this.#lastSeq + from + 1;
    return rows.map((row, index) => ({ row, seq: first + index }));
  }

  #row(message: ImportedMessage): Row {
    const { feedback } = message;
    const time = toTime(message.timestamp);
    const row = fromMessage({ ...message, conversationId: this.id }, time, this.#now, null);
    return [...row, feedback?.rating ?? null, feedback?.comment ?? null];
  }

  /** A long conversation is written while it is read; it is found by its id alone. */
  #remember(message: ImportedMessage): void {
    if (this.#conversation.isLong || message.status === 'superseded') return;
    const form = storedForm(message);
    if (form !== undefined) this.#forms.push(form);
  }

  #rate({ replyTo, feedback }: ImportedMessage): void {
    if (replyTo === null || !feedback) return;
    const other = this.#ratings.get(replyTo) ?? feedback.rating;
    this.#ratings.set(replyTo, other === feedback.rating ? other : 'both');
  }

  #checkSize({ uid, content, reasoning, details }: ImportedMessage): void {
    const texts = [content, reasoning ?? '', details ? JSON.stringify(details) : ''];
    const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), ROW_BYTES);
    if (bytes <= this.#maxBytes) return;
    throw new ImportError(`the message ${uid} is longer than max_allowed_packet of the database allows`);
  }

  #columns(owner: string | null): Record<string, string | number | null> {
    const { createdAt, lastActive, pinned, settings, isLong } = this.#conversation;
    const start = historyStart(owner, settings.user ?? null, settings.system ?? null);
    return {
      ...UNKNOWN_HISTORY,
      history_hash: isLong ? null : hashOf([...start, ...this.#forms]),
      owner,
      created_at: toTime(createdAt),
      last_active: toTime(lastActive),
      // Of a long one not all messages are read yet.
      last_seq: this.#lastSeq + this.count,
      ...fromChanges({ ...settings, pinned }),
    };
  }

  #insert(owner: string | null, more: Record<string, string | number> = {}): Statement {
    const columns = { id: this.id, ...this.#columns(owner), ...more };
    const names = Object.keys(columns);
    const sql = `INSERT INTO conversations (${names.join(', ')}) VALUES (${placeholders(names.length)})`;
    return { sql, bindings: Object.values(columns) };
  }

  #restart(owner: string | null): Statement {
    const columns = { ...this.#columns(owner), epoch: this.epoch };
    const set = Object.keys(columns).map((name) => `${name} = ?`);
    const sql = `UPDATE conversations SET ${set.join(', ')}, deleted_at = NULL WHERE id = ?`;
    return { sql, bindings: [...Object.values(columns), this.id] };
  }

  /** Incremental exports then have it as deleted and new. */
  #hide(): Statement {
    const sql = `INSERT INTO deletions (conversation_id, owner, deleted_at, renewed, pending)
      SELECT id, owner, ?, 1, 1 FROM conversations WHERE id = ?`;
    return { sql, bindings: [this.#now, this.id] };
  }
}
