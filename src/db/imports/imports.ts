import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import { historyStart, storedForm } from '../../domain/conversations/history.ts';
import {
  ImportError,
  type ImportedConversation,
  type ImportedMessage,
  type ImportOptions,
  type ImportOutcome,
  type ImportResult,
  type ImportStore,
  MessageTakenError,
} from '../../domain/conversations/imports.ts';
import { errorCode } from '../../domain/errors.ts';
import { hashOf } from '../../util/hash-chain.ts';
import { pause } from '../../util/timers.ts';
import { fromChanges, fromMessage, MESSAGE_INSERT_COLUMNS, toTime } from '../core/codec.ts';
import {
  type Dialect,
  dialectOf,
  type LockedConversation,
  type PacketLimit,
  placeholders,
  repeated,
  runAll,
  type Statement,
} from '../core/dialect.ts';
import { databaseBusy, toAppError, withDeadlockRetry } from '../core/errors.ts';
import { removeDeleted } from '../repositories/deletions.ts';
import { UNKNOWN_HISTORY } from '../turns/history-chain.ts';
import { messageChars } from '../turns/text-parts.ts';

/** Messages of one statement, and its UTF-16 units; on SQLite a statement blocks the event loop. */
const SLICE = 100;
const SLICE_CHARS = 500_000;
/** Of a row beside its texts. */
const ROW_CHARS = 300;
const ROW_BYTES = 2048;
/** At most: a control character is escaped in JSON. */
const BYTES_PER_CHAR = 6;
/** How often a conversation is tried that another process creates or locks. */
const ATTEMPTS = 20;
const RETRY_MS = 50;
/** How long an import removes the rows of a replaced conversation; the rest is removed in the background. */
const REMOVE_MS = 300;

const COLUMNS = `${MESSAGE_INSERT_COLUMNS}, rating, rating_comment`.split(', ');

const SKIPPED: ImportResult = { outcome: 'skipped', messages: 0 };

type Row = readonly (string | number | null)[];

interface Slice {
  readonly uids: readonly string[];
  /** Without the epoch and `seq`, which follow from the conversation that exists. */
  readonly rows: readonly Row[];
  /** Messages in the slices before. */
  readonly from: number;
}

/** Writes whole conversations with their ids. */
export class KnexImports implements ImportStore {
  readonly #knex: Knex;
  readonly #batches: Knex;
  readonly #dialect: Dialect;
  #packet: Promise<PacketLimit> | undefined;

  /** @param batches for {@link Dialect.batch} */
  constructor(knex: Knex, batches: Knex) {
    this.#knex = knex;
    this.#batches = batches;
    this.#dialect = dialectOf(knex);
  }

  async write(
    conversations: readonly ImportedConversation[],
    options: ImportOptions,
  ): Promise<ImportResult[]> {
    try {
      const { bytes } = await this.#limit();
      const known = await this.#writeFree(conversations, options, bytes);
      const results: ImportResult[] = [];
      for (const one of conversations) {
        results.push(known.get(one.id) ?? (await this.#writeOne(one, options, bytes)));
      }
      return results;
    } catch (error) {
      throw toAppError(error);
    }
  }

  /**
   * Those whose ids are free, in about one round trip, up to one that fails, and those that are skipped. What it leaves
   * out is written with locks, one by one.
   */
  async #writeFree(
    conversations: readonly ImportedConversation[],
    options: ImportOptions,
    maxBytes: number,
  ): Promise<Map<string, ImportResult>> {
    const results = new Map<string, ImportResult>();
    if (conversations.length === 1) return results;
    const ids = conversations.map(({ id }) => id);
    const existing = await this.#knex('conversations').whereIn('id', ids).select('id', 'deleted_at');
    for (const { id, deleted_at } of existing) {
      if (deleted_at === null && !options.replace) results.set(id, SKIPPED);
    }
    const found = new Set(existing.map(({ id }) => id));
    const drafts: { readonly draft: Draft; readonly writes: readonly Statement[] }[] = [];
    for (const conversation of conversations) {
      if (found.has(conversation.id)) continue;
      const draft = new Draft(conversation, options, maxBytes);
      const writes = await draft.writes().catch(() => undefined);
      if (writes) drafts.push({ draft, writes });
    }
    const transactions = drafts.map(({ writes }) => writes);
    const committed = await this.#dialect.transactions(this.#batches, transactions);
    for (const { draft } of drafts.slice(0, committed)) {
      results.set(draft.id, { outcome: 'imported', messages: draft.count });
    }
    return results;
  }

  async #writeOne(
    conversation: ImportedConversation,
    options: ImportOptions,
    maxBytes: number,
  ): Promise<ImportResult> {
    try {
      return conversation.isLong
        ? await this.#writeLong(conversation, options, maxBytes)
        : await this.#writeShort(conversation, options, maxBytes);
    } catch (error) {
      if (error instanceof ImportError) return { error };
      throw error;
    }
  }

  #limit(): Promise<PacketLimit> {
    this.#packet ??= this.#dialect.batch(this.#batches, [], (_, packet) => ({ writes: [], result: packet }));
    this.#packet.catch(() => {
      this.#packet = undefined;
    });
    return this.#packet;
  }

  /** In two round trips. */
  async #writeShort(conversation: ImportedConversation, options: ImportOptions, maxBytes: number) {
    const { id } = conversation;
    const draft = new Draft(conversation, options, maxBytes);
    const slices: Slice[] = [];
    for await (const slice of draft.slices()) slices.push(slice);
    const read = { sql: this.#dialect.lockSql(1), bindings: [id] };
    for (let attempt = 1; ; attempt++) {
      try {
        const outcome = await withDeadlockRetry(() =>
          this.#dialect.batch(this.#batches, [read], ([rows = []]) => {
            const [found] = rows as LockedConversation[];
            const plan = draft.begin(found);
            if (plan.outcome === 'skipped') return { writes: [], result: plan.outcome };
            const writes = slices.flatMap((slice) => draft.insert(slice, plan.epoch));
            return { writes: [...plan.writes, ...writes, ...draft.end()], result: plan.outcome };
          }),
        );
        return await this.#done(draft, outcome);
      } catch (error) {
        await this.#explain(error, id, slices, attempt);
      }
    }
  }

  /** Message by message. It cannot be repeated, because the messages are read once. */
  async #writeLong(conversation: ImportedConversation, options: ImportOptions, maxBytes: number) {
    const { id } = conversation;
    const draft = new Draft(conversation, options, maxBytes);
    let last: Slice[] = [];
    try {
      const outcome = await this.#knex.transaction(async (trx) => {
        const [found] = await this.#dialect.lockConversations(trx, [id]);
        const { outcome, epoch, writes } = draft.begin(found);
        if (outcome === 'skipped') return outcome;
        await runAll(trx, writes);
        for await (const slice of draft.slices()) {
          last = [slice];
          try {
            await runAll(trx, draft.insert(slice, epoch));
          } catch (error) {
            if (isDuplicate(error)) await rejectRepeated(trx, draft, slice);
            throw error;
          }
          await nextTurn();
        }
        await runAll(trx, draft.end());
        return outcome;
      });
      return await this.#done(draft, outcome);
    } catch (error) {
      await this.#explain(error, id, last, ATTEMPTS);
      throw error;
    }
  }

  async #done({ count, id, epoch }: Draft, outcome: ImportOutcome): Promise<ImportResult> {
    if (outcome === 'skipped') return SKIPPED;
    if (outcome === 'replaced') {
      const started = performance.now();
      const isStopped = () => performance.now() - started > REMOVE_MS;
      const marks = await this.#knex('deletions').where({ conversation_id: id, pending: 1 }).select('id');
      const deletions = marks.map((mark) => ({ seq: mark.id, conversationId: id, epoch }));
      // It is replaced, whether the earlier rows are removed now or later.
      await removeDeleted(this.#knex, deletions, { isStopped }).catch(() => false);
    }
    return { outcome, messages: count };
  }

  /** Returns when the transaction is to be repeated. @throws ImportError or the error itself */
  async #explain(error: unknown, id: string, slices: readonly Slice[], attempt: number): Promise<void> {
    if (!isDuplicate(error)) throw error;
    for (const { uids } of slices) {
      const [taken] = await this.#knex('messages')
        .whereIn('uid', uids)
        .whereNot('conversation_id', id)
        .select('uid')
        .limit(1);
      if (taken) throw new MessageTakenError(taken.uid);
    }
    const seen = new Set<string>();
    for (const uid of slices.flatMap(({ uids }) => uids)) {
      if (seen.has(uid)) throw occursTwice(uid);
      seen.add(uid);
    }
    // Another process has just created the conversation, or has locked it.
    if (attempt >= ATTEMPTS) throw databaseBusy(error);
    await pause(RETRY_MS * Math.random());
  }
}

/** The statements that write one conversation. */
class Draft {
  readonly id: string;
  readonly #conversation: ImportedConversation;
  readonly #options: ImportOptions;
  readonly #maxBytes: number;
  readonly #now = toTime(Date.now());
  /** Ratings of the replies, by question. */
  readonly #ratings = new Map<string, string>();
  /** Of its visible messages, unless it is long. */
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
    readonly epoch: number;
    readonly writes: readonly Statement[];
  } {
    const exists = found !== undefined && found.deleted_at === null;
    if (exists && !this.#options.replace) return { outcome: 'skipped', epoch: 0, writes: [] };
    this.#isRestart = found !== undefined;
    this.epoch = found ? found.epoch + (exists ? 1 : 0) : 0;
    this.#lastSeq = found?.last_seq ?? 0;
    const owner = exists && !this.#options.replacesOwner ? found.owner : this.#options.owner;
    const save = found ? this.#restart(owner) : this.#insert(owner);
    const writes = exists ? [this.#hide(), save] : [save];
    return { outcome: exists ? 'replaced' : 'imported', epoch: this.epoch, writes };
  }

  /** All of a conversation whose id is free. @throws ImportError */
  async writes(): Promise<Statement[]> {
    const inserts: Statement[] = [];
    for await (const slice of this.slices()) inserts.push(...this.insert(slice, 0));
    return [...this.begin(undefined).writes, ...inserts, ...this.end()];
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
   * Only columns with a value: each null takes as long as a short text. Rows of an earlier epoch that are not removed
   * yet have the same ids.
   */
  insert({ uids, rows, from }: Slice, epoch: number): Statement[] {
    const used = [...COLUMNS.keys()].filter((column) => rows.some((row) => row[column] !== null));
    const names = used.map((column) => COLUMNS[column]);
    const tuple = `(${placeholders(used.length + 1)}, ${epoch})`;
    const sql = `INSERT INTO messages (${names.join(', ')}, seq, epoch) VALUES ${repeated(tuple, rows.length)}`;
    const first = this.#lastSeq + from + 1;
    const bindings = rows.flatMap((row, index) => [
      ...used.map((column) => row[column] ?? null),
      first + index,
    ]);
    const insert = { sql, bindings };
    if (!this.#isRestart) return [insert];
    const remove = {
      sql: `DELETE FROM messages WHERE uid IN (${placeholders(uids.length)}) AND conversation_id = ? AND epoch < ?`,
      bindings: [...uids, this.id, epoch],
    };
    return [remove, insert];
  }

  /** Questions are marked with the ratings of their replies, as feedback does. */
  end(): Statement[] {
    const ratings = [...this.#ratings].map(([uid, rating]) => ({
      sql: 'UPDATE messages SET rating = ? WHERE uid = ? AND conversation_id = ?',
      bindings: [rating, uid, this.id],
    }));
    if (!this.#conversation.isLong) return ratings;
    const sql = 'UPDATE conversations SET last_seq = ? WHERE id = ?';
    return [{ sql, bindings: [this.#lastSeq + this.count, this.id] }, ...ratings];
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

  #insert(owner: string | null): Statement {
    const columns = { id: this.id, ...this.#columns(owner) };
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

function occursTwice(uid: string): ImportError {
  return new ImportError(`the message ${uid} occurs twice`);
}

/** Only the transaction itself sees the slices that it has written. @throws ImportError */
async function rejectRepeated(trx: Knex, { id, epoch }: Draft, { uids }: Slice): Promise<void> {
  const written = { conversation_id: id, epoch };
  const [repeated] = await trx('messages').whereIn('uid', uids).where(written).select('uid').limit(1);
  if (repeated) throw occursTwice(repeated.uid);
}

const DUPLICATES = ['ER_DUP_ENTRY', 'SQLITE_CONSTRAINT_UNIQUE', 'SQLITE_CONSTRAINT_PRIMARYKEY'];

function isDuplicate(error: unknown): boolean {
  return DUPLICATES.includes(errorCode(error) ?? '');
}
