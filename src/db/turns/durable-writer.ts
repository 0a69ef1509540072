import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import type {
  PendingTurns,
  ProgressOutcome,
  ReplyProgress,
  TurnWrite,
  TurnWriter,
  WriteOutcome,
} from '../../domain/chat/turns.ts';
import type { Message } from '../../domain/conversations/conversation.ts';
import { errorCode, isUnavailable } from '../../domain/errors.ts';
import { databaseUnavailable } from '../core/errors.ts';
import { conversationOf } from '../journal/codec.ts';
import type { Journal } from '../journal/journal.ts';
import { replay } from '../journal/replay.ts';
import { DatabaseStatus } from './database-status.ts';
import { KeyedQueue } from './keyed-queue.ts';

const RETRY_MS = 1000;
const DRAIN_POLL_MS = 25;

export interface DurableOptions {
  /** Interval of probes and replays, varied by a quarter. */
  readonly retryMs?: number;
  /**
   * Resolves when the database can be written to; the replay waits for it. It must check the schema too, because a
   * database without tables would reject every entry. Default: an empty write.
   */
  readonly probe?: () => Promise<unknown>;
}

/**
 * Writes to the database, or to the journal of this host while the database is unavailable, and replays the journal
 * afterwards. Writes of one conversation stay in order.
 */
export class DurableWriter implements TurnWriter, PendingTurns {
  readonly #database: TurnWriter;
  readonly #journal: Journal;
  readonly #logger: Logger;
  readonly #retryMs: number;
  readonly #probe: () => Promise<unknown>;
  readonly #quit = new AbortController();
  readonly #status: DatabaseStatus;
  /** By conversation: the write under way and those behind it. */
  readonly #queues = new KeyedQueue();
  readonly #pendingWrites = new Set<Promise<unknown>>();
  /** Replies whose start this process has journalled. */
  readonly #journalledReplies = new Set<string>();
  #replayed = { turns: 0, ms: 0 };
  #timer: NodeJS.Timeout | undefined;
  #replaying: Promise<void> | undefined;
  #lastReplayError: string | undefined;
  #closed: Promise<void> | undefined;
  #isAbandoned = false;
  /** Ends of writes that wait for the database. */
  readonly #waiting = new Set<() => void>();

  constructor(database: TurnWriter, journal: Journal, logger: Logger, options: DurableOptions = {}) {
    this.#database = database;
    this.#journal = journal;
    this.#logger = logger;
    this.#status = new DatabaseStatus(logger);
    this.#retryMs = options.retryMs ?? RETRY_MS;
    this.#probe = options.probe ?? (() => database.write({}));
    this.#schedule(0);
  }

  /**
   * `journalled` when the database is unavailable or earlier writes of the conversation are in the journal. Claims of
   * an idempotency key and revisions are never journalled, because only the database knows whether they are possible.
   * @throws AppError `database_unavailable` when the journal fails too or must not be used; `database_busy` when the
   * rows stay locked, which does not count as an outage; other errors of the database unchanged
   */
  write(unit: TurnWrite): Promise<WriteOutcome> {
    if (this.#closed) return Promise.reject(databaseUnavailable('the writer is closed'));
    return this.#track(this.#writeInOrder(unit));
  }

  /**
   * Fails immediately while the database is unavailable. Checkpoints are not journalled, because the end of the reply
   * has the same text. A failure does not mark the database as down: writes go first, so checkpoints can time out.
   */
  async progress(reply: ReplyProgress): Promise<ProgressOutcome> {
    if (this.#status.isDown || this.#isStartJournalled(reply.uid)) throw databaseUnavailable(undefined);
    return this.#database.progress(reply);
  }

  /** Resolves when every write has reached the database or the journal, or has failed. */
  async idle(): Promise<void> {
    while (this.#pendingWrites.size > 0) await Promise.allSettled(this.#pendingWrites);
    await this.#database.idle();
  }

  has(conversationId: string): boolean {
    return this.#journal.has(conversationId);
  }

  conversation(conversationId: string): ReturnType<PendingTurns['conversation']> {
    return this.#journal.conversation(conversationId);
  }

  reply(uid: string): Message | null {
    return this.#journal.reply(uid);
  }

  state(): ReturnType<PendingTurns['state']> {
    return this.#journal.state();
  }

  /** Whether the database took the last write. */
  get isDatabaseUp(): boolean {
    return !this.#status.isDown;
  }

  /** Removes the entries of a deleted conversation. @returns how many */
  drop(conversationId: string): Promise<number> {
    return this.#journal.drop(conversationId);
  }

  async flush(ms: number): Promise<void> {
    if (this.#journal.isEmpty()) return;
    const deadline = performance.now() + ms;
    const late = delay(ms, undefined, { ref: false });
    // A running replay may already have failed at the end of the outage, so another one follows it.
    if (this.#replaying) await Promise.race([this.#replaying, late]);
    await Promise.race([this.#probeAndReplay(), late]);
    while (!this.#journal.isEmpty()) {
      const left = deadline - performance.now();
      if (left <= 0)
        throw databaseUnavailable(
          undefined,
          'Earlier turns are not yet in the database; try again in a moment',
        );
      await delay(Math.min(DRAIN_POLL_MS, left));
    }
  }

  /**
   * Sends waiting and later writes to the journal. If the database stores one of them too, its replay changes nothing.
   */
  abandonDatabase(): void {
    this.#isAbandoned = true;
    if (this.#waiting.size === 0) return;
    this.#status.markDown(new Error('no response before the end of the shutdown'));
    for (const abandon of this.#waiting) abandon();
  }

  /** Rejects new writes, waits for pending ones and closes the journal. Its entries stay for the next start. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#quit.abort();
    clearTimeout(this.#timer);
    if (this.#isAbandoned) await Promise.allSettled(this.#pendingWrites);
    else {
      await this.idle();
      await this.#replaying;
    }
    await this.#journal.close();
  }

  #track<T>(work: Promise<T>): Promise<T> {
    this.#pendingWrites.add(work);
    const untrack = () => this.#pendingWrites.delete(work);
    work.then(untrack, untrack);
    return work;
  }

  /**
   * Waits for earlier writes of the same conversation. In one transaction they would need one commit less, but if the
   * write of a question failed, its reply would get the outcome `gone` instead of that error.
   */
  async #writeInOrder(unit: TurnWrite): Promise<WriteOutcome> {
    const conversationId = conversationOf(unit);
    const since = performance.now();
    if (conversationId === undefined) return this.#database.write(unit, since);
    if (unit.reply && unit.reply.status !== 'streaming') this.#journalledReplies.delete(unit.reply.uid);
    const { before, leave } = this.#queues.enter(conversationId);
    try {
      await before;
      // A new id cannot be in the journal. Leaving the query out saves 6 % of the time of a cached chat.
      const isJournalled = unit.start?.named !== false && this.#journal.has(conversationId);
      if (!this.#status.isDown && !isJournalled && !this.#isAbandoned) {
        const outcome = await this.#writeToDatabase(unit, since);
        if (outcome !== undefined) return outcome;
      }
      return await this.#writeToJournal(unit, leave);
    } finally {
      leave();
    }
  }

  /** Undefined when the database is unavailable. */
  async #writeToDatabase(unit: TurnWrite, since: number): Promise<WriteOutcome | undefined> {
    try {
      const outcome = await this.#writeUnlessAbandoned(unit, since);
      if (outcome === undefined) return undefined;
      if (!this.#status.isDown) this.#status.markUp();
      return outcome;
    } catch (error) {
      if (!isUnavailable(error)) throw error;
      this.#status.markDown(error);
      if (needsDatabase(unit)) throw error;
      return undefined;
    }
  }

  /** Undefined when the database is abandoned before it responds. */
  #writeUnlessAbandoned(unit: TurnWrite, since: number): Promise<WriteOutcome | undefined> {
    return new Promise((resolve, reject) => {
      const abandon = () => resolve(undefined);
      this.#waiting.add(abandon);
      const settle = () => this.#waiting.delete(abandon);
      this.#database.write(unit, since).then(resolve, reject).finally(settle);
    });
  }

  /** @param leave called as soon as the position of the write in the journal is fixed */
  async #writeToJournal(unit: TurnWrite, leave: () => void): Promise<WriteOutcome> {
    if (needsDatabase(unit)) throw databaseUnavailable(undefined);
    if (unit.reply?.status === 'streaming') this.#journalledReplies.add(unit.reply.uid);
    const written = this.#journal.append(unit);
    leave();
    await written;
    return 'journalled';
  }

  /** Whether the start of the reply is still in the journal. */
  #isStartJournalled(uid: string): boolean {
    if (!this.#journalledReplies.has(uid)) return false;
    if (this.#journal.reply(uid)) return true;
    this.#journalledReplies.delete(uid);
    return false;
  }

  #schedule(ms: number): void {
    this.#timer = setTimeout(() => void this.#probeAndReplay(), ms).unref();
  }

  /** Never rejects. Runs once at a time. */
  #probeAndReplay(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    clearTimeout(this.#timer);
    this.#replaying ??= this.#runReplay().finally(() => {
      this.#replaying = undefined;
      if (!this.#closed) this.#schedule(this.#retryMs * (0.75 + Math.random() / 2));
    });
    return this.#replaying;
  }

  async #runReplay(): Promise<void> {
    try {
      const isEmpty = this.#journal.isEmpty();
      if (isEmpty && !this.#status.isDown) return;
      if (!(await this.#isReachable())) return;
      const replayed = !isEmpty && (await this.#journal.exclusively(() => this.#replay()));
      // Another process may replay; then this one knows only that the database responds.
      if (!replayed) this.#status.markProbed();
      this.#lastReplayError = undefined;
    } catch (error) {
      // After abandonDatabase() the journal is closed while a replay still runs, so its error is expected.
      if (!this.#isAbandoned) this.#logReplayError(error);
    }
  }

  async #isReachable(): Promise<boolean> {
    try {
      await this.#probe();
      return true;
    } catch {
      return false;
    }
  }

  async #replay(): Promise<void> {
    const began = performance.now();
    const run = await replay({
      writer: this.#database,
      journal: this.#journal,
      logger: this.#logger,
      signal: this.#quit.signal,
      onSuccess: () => this.#status.markUp(),
    });
    this.#replayed.turns += run.turns;
    this.#replayed.ms += performance.now() - began;
    if (run.failure !== undefined) this.#status.markDown(run.failure);
    // Locked rows are no outage.
    else if (run.busy) this.#status.markProbed();
    else if (!this.#quit.signal.aborted) this.#logReplayed();
  }

  #logReplayed(): void {
    const { turns, ms } = this.#replayed;
    this.#replayed = { turns: 0, ms: 0 };
    this.#logger.info({ turns, ms: Math.round(ms) }, 'journal replayed');
  }

  /** Logs the same error once only, because a broken journal fails with every attempt. */
  #logReplayError(error: unknown): void {
    const cause = error instanceof Error ? error.cause : undefined;
    const reason = errorCode(cause) ?? String(error);
    if (reason === this.#lastReplayError) return;
    this.#lastReplayError = reason;
    this.#logger.error({ err: error }, 'journal replay failed');
  }
}

function needsDatabase({ key, revision }: TurnWrite): boolean {
  return key !== undefined || revision !== undefined;
}
