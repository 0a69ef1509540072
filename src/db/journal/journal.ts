import type Sqlite from 'better-sqlite3';
import type { PendingConversation, PendingTurns, TurnWrite } from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { databaseUnavailable, withFileLockRetry } from '../core/errors.ts';
import { FileLock, isBusy } from '../core/file-lock.ts';
import { type EntryRow, toEntry, toUnit } from './codec.ts';
import { isRowError, openJournalFile } from './file.ts';
import { prepareStatements, type StoredEntry } from './statements.ts';
import { WriteQueue } from './write-queue.ts';

/** Limit of the bodies that one {@link Journal.take} returns, which are in memory. */
const TAKE_BYTES = 8_000_000;

export interface JournalEntry {
  /** Increases in the order in which the units were appended. */
  readonly seq: number;
  readonly conversationId: string;
  /** The id of the reply; without one, that of the question. */
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

/** Appends that share a transaction. */
interface Batch {
  /** An append is removed when it is settled. */
  readonly appends: Set<PendingAppend>;
  isQueued: boolean;
}

/**
 * Turns that wait for the database, in a SQLite file that all processes of the host share. Entries survive a crash of
 * the process and of the machine. Writes wait for the lock of the file, reads need none. Methods throw AppError
 * `database_unavailable` when the file cannot be used.
 */
export class Journal implements Omit<PendingTurns, 'flush'> {
  readonly #file: Sqlite.Database;
  /** Held by the one process of the host that replays. */
  readonly #lock: FileLock;
  readonly #sql: ReturnType<typeof prepareStatements>;
  readonly #maxBytes: number;
  readonly #writes = new WriteQueue();
  /** Appends that are not written yet, by conversation. */
  readonly #pending = new Map<string, Set<PendingAppend>>();
  /** The batch that the next append joins. */
  #batch: Batch | undefined;

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

  /** Calls the constructor, and repeats it for some seconds while another program has locked the file. */
  static open(path: string, maxBytes: number): Promise<Journal> {
    return withFileLockRetry(async () => new Journal(path, maxBytes));
  }

  /**
   * Resolves when the unit is on disk. Units that arrive in the same iteration of the event loop, or while the file is
   * locked, share one transaction.
   * @throws AppError `database_unavailable` when the journal is full or its file fails
   */
  append(unit: TurnWrite): Promise<void> {
    return new Promise((resolve, reject) => {
      const row = toEntry(unit);
      const each = { row, startsTurn: unit.start !== undefined, resolve, reject };
      if (!this.#batch) {
        this.#batch = { appends: new Set(), isQueued: false };
        setImmediate(() => this.#flush());
      }
      this.#batch.appends.add(each);
      const { conversationId } = row;
      const others = this.#pending.get(conversationId);
      if (others) others.add(each);
      else this.#pending.set(conversationId, new Set([each]));
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

  remove(seqs: readonly number[]): Promise<void> {
    return this.#write(() => {
      this.#sql.remove.run(JSON.stringify(seqs));
      this.#truncateWal();
    });
  }

  /** Moves an entry that the database rejects to the table `rejected`, where an operator can examine it. */
  reject(seq: number, reason: string): Promise<void> {
    const move = () => {
      this.#sql.moveToRejected.run(reason, seq);
      this.#sql.remove.run(JSON.stringify([seq]));
    };
    return this.#write(() => {
      this.#file.transaction(move).immediate();
      this.#truncateWal();
    });
  }

  /** Whether a unit with that question or reply was rejected. */
  wasRejected(conversationId: string, uid: string): boolean {
    return this.#use(() => this.#sql.wasRejected.get(conversationId, uid, uid) !== undefined);
  }

  /** Removes all entries of a conversation, rejected ones too. @returns how many */
  drop(conversationId: string): Promise<number> {
    const removeAll = (): number => {
      const { changes } = this.#sql.drop.run(conversationId);
      return changes + this.#sql.dropRejected.run(conversationId).changes;
    };
    return this.#write(() => {
      const count = this.#file.transaction(removeAll).immediate();
      if (count > 0) this.#truncateWal();
      return count;
    });
  }

  isEmpty(): boolean {
    return this.#use(() => this.#pending.size === 0 && this.#sql.hasEntries.get() === 0);
  }

  has(conversationId: string): boolean {
    if (this.#pending.has(conversationId)) return true;
    return this.#read(() => this.#sql.hasConversation.get(conversationId) !== undefined);
  }

  conversation(conversationId: string): ReturnType<PendingTurns['conversation']> {
    const stored = this.#use(() => this.#sql.bodies.all(conversationId));
    const pending = [...(this.#pending.get(conversationId) ?? [])].map(({ row }) => row.body);
    const units = [...stored, ...pending].map(toUnit);
    const first = units[0]?.start;
    if (first?.named !== false) return null;
    const messages = new Map<string, Message>();
    let user: string | null = null;
    let metadata: PendingConversation['metadata'] = null;
    for (const unit of units) {
      if (unit === null) return null;
      const { start } = unit;
      user ??= start?.user ?? null;
      if (start?.metadata) metadata = Object.assign({}, metadata, start.metadata);
      for (const message of [...(start?.earlier ?? []), start?.message, unit.reply]) {
        if (!message) continue;
        const known = messages.get(message.uid);
        if (!known || known.status === 'streaming') messages.set(message.uid, message);
      }
    }
    const { by, system = null } = first;
    return { owner: by.owner, messages: [...messages.values()], user, metadata, system };
  }

  reply(uid: string): Message | null {
    const body = this.#use(() => this.#pendingBody(uid) ?? this.#sql.reply.get(uid));
    return (body === undefined ? null : toUnit(body))?.reply ?? null;
  }

  state(): ReturnType<PendingTurns['state']> {
    return this.#use(() => {
      const { turns, bytes } = this.#total();
      const pending = this.#allPending().map(({ row }) => row.bytes);
      return {
        turns: turns + pending.length,
        bytes: pending.reduce((sum, each) => sum + each, bytes),
        oldest: turns === 0 ? null : (this.#sql.oldestAt.get() ?? null),
      };
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

  /**
   * Writes pending appends, then closes the file. Waits while another program has locked it. Entries stay for the next
   * start.
   */
  close(): Promise<void> {
    return this.#write(() => {
      this.#lock.close();
      this.#file.close();
    });
  }

  /** Writes pending appends first, unless the file is locked. */
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

  /** Runs `work` after all earlier writes. */
  async #write<T>(work: () => T): Promise<T> {
    this.#flush();
    this.#seal(this.#batch);
    try {
      return await this.#writes.run(work);
    } catch (error) {
      throw journalError(error);
    }
  }

  #allPending(): PendingAppend[] {
    return [...this.#pending.values()].flatMap((appends) => [...appends]);
  }

  #pendingBody(replyUid: string): string | undefined {
    return this.#allPending().findLast(({ row }) => row.replyUid === replyUid)?.row.body;
  }

  #total() {
    return this.#sql.total.get() ?? { turns: 0, bytes: 0 };
  }

  /** Never throws: errors reject the appends. */
  #flush(): void {
    const batch = this.#batch;
    if (!batch || batch.isQueued) return;
    batch.isQueued = true;
    const written = this.#writes.run(() => {
      this.#settle(batch, [...batch.appends]);
      this.#seal(batch);
    });
    written.catch((error: unknown) => {
      this.#seal(batch);
      for (const each of batch.appends) this.#end(batch, each).reject(journalError(error));
    });
  }

  /** Later appends join another batch. */
  #seal(batch: Batch | undefined): void {
    if (this.#batch === batch) this.#batch = undefined;
  }

  /** @throws when the file is locked */
  #settle(batch: Batch, appends: readonly PendingAppend[]): void {
    try {
      const full = this.#file.transaction(() => this.#insert(appends)).immediate();
      for (const each of appends) {
        const { resolve, reject } = this.#end(batch, each);
        if (full.has(each)) reject(databaseUnavailable(undefined, FULL));
        else resolve();
      }
    } catch (error) {
      if (isBusy(error)) throw error;
      if (appends.length > 1 && isRowError(error)) for (const each of appends) this.#settle(batch, [each]);
      else for (const each of appends) this.#end(batch, each).reject(journalError(error));
    }
  }

  /** Removes a settled append from its batch and from the pending ones. */
  #end(batch: Batch, append: PendingAppend): PendingAppend {
    const { conversationId } = append.row;
    batch.appends.delete(append);
    const others = this.#pending.get(conversationId);
    others?.delete(append);
    if (others?.size === 0) this.#pending.delete(conversationId);
    return append;
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
    if (this.#total().turns > 0) return;
    try {
      this.#file.pragma('wal_checkpoint(TRUNCATE)');
    } catch (error) {
      // The log is truncated after a later write.
      if (!isBusy(error)) throw error;
    }
  }
}

const FULL = 'The database is unavailable and the journal is full; try again later';

function journalError(error: unknown): Error {
  return databaseUnavailable(error, 'The database is unavailable and the journal cannot be used');
}
