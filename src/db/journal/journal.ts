import type Sqlite from 'better-sqlite3';
import type { PendingTurns, TurnWrite } from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { databaseUnavailable } from '../core/errors.ts';
import { FileLock } from '../core/file-lock.ts';
import { type EntryRow, toEntry, toUnit } from './codec.ts';
import { isRowError, openJournalFile } from './file.ts';
import { prepareStatements, type StoredEntry } from './statements.ts';

/** Limit for the bodies of one {@link Journal.take}, so that many long replies do not fill the memory. */
const TAKE_BYTES = 8_000_000;

export interface JournalEntry {
  /** Increases in the order in which the units were appended. */
  readonly seq: number;
  readonly conversationId: string;
  /** Of the reply; without one, of the question. */
  readonly uid: string | null;
  /** Null when it cannot be read. */
  readonly unit: TurnWrite | null;
}

interface PendingAppend {
  readonly row: EntryRow;
  readonly startsTurn: boolean;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * Turns that wait for the database, in a SQLite file that all processes of the host share. Entries survive a crash of
 * the process and of the machine. Methods throw AppError `database_unavailable` when the file cannot be used.
 */
export class Journal implements Omit<PendingTurns, 'flush'> {
  readonly #file: Sqlite.Database;
  /** Held by the one process of the host that replays. */
  readonly #lock: FileLock;
  readonly #sql: ReturnType<typeof prepareStatements>;
  readonly #maxBytes: number;
  #appends: PendingAppend[] = [];
  #appendingTo = new Set<string>();

  /**
   * @param path its folder is created
   * @param maxBytes above this size no turn may start; replies of started turns are still accepted
   * @throws the driver's error, or Error when a newer version wrote the file
   */
  constructor(path: string, maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#file = openJournalFile(path, maxBytes);
    this.#sql = prepareStatements(this.#file);
    this.#lock = new FileLock(`${path}.lock`);
  }

  /**
   * Resolves when the unit is on disk. Units of the same turn of the event loop share one transaction.
   * @throws AppError `database_unavailable` when the journal is full or its file fails
   */
  append(unit: TurnWrite): Promise<void> {
    return new Promise((resolve, reject) => {
      const row = toEntry(unit);
      if (this.#appends.length === 0) setImmediate(() => this.#flush());
      this.#appends.push({ row, startsTurn: unit.start !== undefined, resolve, reject });
      this.#appendingTo.add(row.conversationId);
    });
  }

  /** The oldest entries, oldest first: at most `limit`, fewer when they are long. */
  take(limit: number): JournalEntry[] {
    return this.#use(() => {
      const rows: StoredEntry[] = [];
      let bytes = 0;
      for (const row of this.#sql.oldest.iterate(limit)) {
        bytes += row.bytes;
        if (rows.length > 0 && bytes > TAKE_BYTES) break;
        rows.push(row);
      }
      return rows.map((row) => ({
        seq: row.seq,
        conversationId: row.conversation_id,
        uid: row.reply_uid ?? row.question_uid,
        unit: toUnit(row.body),
      }));
    });
  }

  remove(seqs: readonly number[]): void {
    this.#use(() => {
      this.#sql.remove.run(JSON.stringify(seqs));
      this.#truncateWal();
    });
  }

  /** Moves an entry that the database rejects to the table `rejected`, where an operator can examine it. */
  reject(seq: number, reason: string): void {
    const move = () => {
      this.#sql.moveToRejected.run(reason, seq);
      this.#sql.remove.run(JSON.stringify([seq]));
    };
    this.#use(() => {
      this.#file.transaction(move).immediate();
      this.#truncateWal();
    });
  }

  /** Whether the unit with that question was rejected. */
  wasRejected(conversationId: string, questionUid: string): boolean {
    return this.#use(() => this.#sql.wasRejected.get(conversationId, questionUid) !== undefined);
  }

  /** Removes all entries of a conversation, rejected ones too. @returns how many */
  drop(conversationId: string): number {
    const removeAll = (): number => {
      const { changes } = this.#sql.drop.run(conversationId);
      return changes + this.#sql.dropRejected.run(conversationId).changes;
    };
    return this.#use(() => {
      const count = this.#file.transaction(removeAll).immediate();
      if (count > 0) this.#truncateWal();
      return count;
    });
  }

  isEmpty(): boolean {
    return this.#use(() => this.#sql.hasEntries.get() === 0);
  }

  has(conversationId: string): boolean {
    if (this.#appendingTo.has(conversationId)) return true;
    return this.#read(() => this.#sql.hasConversation.get(conversationId) !== undefined);
  }

  conversation(conversationId: string): ReturnType<PendingTurns['conversation']> {
    const units = this.#use(() => this.#sql.bodies.all(conversationId)).map(toUnit);
    const first = units[0]?.start;
    if (first?.named !== false) return null;
    const messages = new Map<string, Message>();
    for (const unit of units) {
      if (unit === null) return null;
      for (const message of [unit.start?.message, unit.reply]) {
        if (!message) continue;
        const known = messages.get(message.uid);
        if (!known || known.status === 'streaming') messages.set(message.uid, message);
      }
    }
    return { owner: first.by.owner, messages: [...messages.values()] };
  }

  reply(uid: string): Message | null {
    const body = this.#use(() => this.#sql.reply.get(uid));
    return (body === undefined ? null : toUnit(body))?.reply ?? null;
  }

  state(): ReturnType<PendingTurns['state']> {
    return this.#use(() => {
      const { turns, bytes } = this.#total();
      return { turns, bytes, oldest: turns === 0 ? null : (this.#sql.oldestAt.get() ?? null) };
    });
  }

  /** Runs `work` under the lock; resolves to false, without running it, when the lock is taken. */
  async exclusively(work: () => Promise<void>): Promise<boolean> {
    if (!this.#read(() => this.#lock.tryAcquire())) return false;
    try {
      await work();
      return true;
    } finally {
      this.#lock.release();
    }
  }

  /** Writes pending appends. Entries stay for the next start. */
  close(): void {
    this.#flush();
    this.#lock.close();
    this.#file.close();
  }

  /** Writes pending appends first. */
  #use<T>(work: () => T): T {
    this.#flush();
    return this.#read(work);
  }

  #read<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw journalError(error);
    }
  }

  #total() {
    return this.#sql.total.get() ?? { turns: 0, bytes: 0 };
  }

  /** Never throws: errors reject the appends. */
  #flush(): void {
    if (this.#appends.length === 0) return;
    const batch = this.#appends;
    this.#appends = [];
    this.#appendingTo = new Set();
    this.#settle(batch);
  }

  #settle(batch: readonly PendingAppend[]): void {
    try {
      const full = this.#file.transaction(() => this.#insert(batch)).immediate();
      for (const each of batch) {
        if (full.has(each)) each.reject(databaseUnavailable(undefined, FULL));
        else each.resolve();
      }
    } catch (error) {
      if (batch.length > 1 && isRowError(error)) for (const each of batch) this.#settle([each]);
      else for (const { reject } of batch) reject(journalError(error));
    }
  }

  /** @returns those rejected because the journal is full */
  #insert(batch: readonly PendingAppend[]): ReadonlySet<PendingAppend> {
    const full = new Set<PendingAppend>();
    const at = Date.now();
    let { bytes } = this.#total();
    for (const each of batch) {
      const { row, startsTurn } = each;
      if (startsTurn && bytes >= this.#maxBytes) {
        full.add(each);
        continue;
      }
      this.#sql.insert.run(row.conversationId, row.questionUid, row.replyUid, row.body, row.bytes, at);
      bytes += row.bytes;
    }
    return full;
  }

  /** SQLite reuses the pages of removed entries, but never shortens the write-ahead log by itself. */
  #truncateWal(): void {
    if (this.#total().turns === 0) this.#file.pragma('wal_checkpoint(TRUNCATE)');
  }
}

const FULL = 'The database is unavailable and the journal is full; try again later';

function journalError(error: unknown): Error {
  return databaseUnavailable(error, 'The database is unavailable and the journal cannot be used');
}
