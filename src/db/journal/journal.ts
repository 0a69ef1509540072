import type Sqlite from 'better-sqlite3';
import type { Message } from '../../domain/conversation.ts';
import type { PendingTurns, TurnWrite } from '../../domain/turns.ts';
import { databaseUnavailable } from '../core/errors.ts';
import { isBusy, openLockFile } from '../core/file-lock.ts';
import { type EntryRow, toEntry, toUnit } from './codec.ts';
import { isRowError, openJournalFile } from './file.ts';
import { prepareStatements, type StoredEntry } from './statements.ts';

/** What one take reads at most, of bodies: many long replies must not fill the memory. */
const TAKE_BYTES = 8_000_000;

export interface JournalEntry {
  /** Growing, in the order in which the units were handed in. */
  readonly seq: number;
  readonly conversationId: string;
  /** Of the reply, or else of the question. */
  readonly uid: string | null;
  /** Null when it cannot be read. */
  readonly unit: TurnWrite | null;
}

interface Gathered {
  readonly row: EntryRow;
  readonly begins: boolean;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * Turns that wait on this host for the database, in a SQLite file that all processes of the host share. What is in
 * it survives the process and the machine. All methods that read or write throw AppError `database_unavailable`
 * when the file fails them.
 */
export class Journal implements Omit<PendingTurns, 'flush'> {
  readonly #file: Sqlite.Database;
  readonly #lock: Sqlite.Database;
  readonly #sql: ReturnType<typeof prepareStatements>;
  readonly #maxBytes: number;
  #gathered: Gathered[] = [];
  #gathering = new Set<string>();

  /**
   * @param path of the file; its folder is made
   * @param maxBytes from here on nothing new is begun; what was begun still gets its end
   * @throws the driver's error, or Error when a newer version wrote the file
   */
  constructor(path: string, maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#file = openJournalFile(path, maxBytes);
    this.#sql = prepareStatements(this.#file);
    this.#lock = openLockFile(`${path}.lock`);
  }

  /**
   * Resolves when it is on the disk. What the same turn of the event loop hands in shares one transaction.
   * @throws AppError `database_unavailable` when the journal is full or its file fails
   */
  append(unit: TurnWrite): Promise<void> {
    return new Promise((resolve, reject) => {
      const row = toEntry(unit);
      if (this.#gathered.length === 0) setImmediate(() => this.#flush());
      this.#gathered.push({ row, begins: unit.start !== undefined, resolve, reject });
      this.#gathering.add(row.conversationId);
    });
  }

  /** The oldest entries in order: at most `limit`, fewer when they are long. */
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
      this.#tidy();
    });
  }

  /** Puts an entry aside that the database refuses, for people to look at. */
  reject(seq: number, reason: string): void {
    const move = () => {
      this.#sql.moveOut.run(reason, seq);
      this.#sql.remove.run(JSON.stringify([seq]));
    };
    this.#use(() => {
      this.#file.transaction(move).immediate();
      this.#tidy();
    });
  }

  /** Whether a unit with that question was put aside. */
  wasRejected(conversationId: string, questionUid: string): boolean {
    return this.#use(() => this.#sql.refused.get(conversationId, questionUid) !== undefined);
  }

  /** Forgets everything of a conversation, what was put aside too, and tells how many entries that were. */
  drop(conversationId: string): number {
    const forget = (): number => {
      const { changes } = this.#sql.drop.run(conversationId);
      return changes + this.#sql.dropRejected.run(conversationId).changes;
    };
    return this.#use(() => {
      const count = this.#file.transaction(forget).immediate();
      if (count > 0) this.#tidy();
      return count;
    });
  }

  isEmpty(): boolean {
    return this.#use(() => this.#sql.any.get() === 0);
  }

  has(conversationId: string): boolean {
    if (this.#gathering.has(conversationId)) return true;
    return this.#read(() => this.#sql.holds.get(conversationId) !== undefined);
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

  /**
   * Runs `work` while no other process of the host does such work; resolves to false, without running it, if one
   * does. The lock dies with the process that holds it.
   */
  async exclusively(work: () => Promise<void>): Promise<boolean> {
    if (!this.#locked()) return false;
    try {
      await work();
      return true;
    } finally {
      if (this.#lock.open) this.#lock.exec('ROLLBACK');
    }
  }

  /** Writes what was handed in. Everything that waits stays for the next start. */
  close(): void {
    this.#flush();
    this.#lock.close();
    this.#file.close();
  }

  #locked(): boolean {
    if (this.#lock.inTransaction) return false;
    try {
      this.#lock.exec('BEGIN EXCLUSIVE');
      return true;
    } catch (error) {
      if (isBusy(error)) return false;
      throw journalError(error);
    }
  }

  /** With what was handed in a moment ago. */
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

  /** Never throws: who handed something in is told. */
  #flush(): void {
    if (this.#gathered.length === 0) return;
    const batch = this.#gathered;
    this.#gathered = [];
    this.#gathering = new Set();
    this.#settle(batch);
  }

  #settle(batch: readonly Gathered[]): void {
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

  /** Those that are refused because the journal is full. */
  #insert(batch: readonly Gathered[]): ReadonlySet<Gathered> {
    const full = new Set<Gathered>();
    const at = Date.now();
    let { bytes } = this.#total();
    for (const each of batch) {
      const { row, begins } = each;
      if (begins && bytes >= this.#maxBytes) {
        full.add(each);
        continue;
      }
      this.#sql.insert.run(row.conversationId, row.questionUid, row.replyUid, row.body, row.bytes, at);
      bytes += row.bytes;
    }
    return full;
  }

  /** The pages of what was removed are used again; the log beside the file would stay as long as it ever was. */
  #tidy(): void {
    if (this.#total().turns === 0) this.#file.pragma('wal_checkpoint(TRUNCATE)');
  }
}

const FULL = 'The database is away, and the journal that stands in for it is full';

function journalError(error: unknown): Error {
  return databaseUnavailable(error, 'The journal that stands in for the database cannot be used');
}
