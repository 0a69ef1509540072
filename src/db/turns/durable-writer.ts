import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Message } from '../../domain/conversation.ts';
import { errorCode, isUnavailable } from '../../domain/errors.ts';
import type {
  PendingTurns,
  ProgressOutcome,
  ReplyProgress,
  TurnWrite,
  TurnWriter,
  WriteOutcome,
} from '../../domain/turns.ts';
import { databaseUnavailable } from '../core/errors.ts';
import { conversationOf } from '../journal/codec.ts';
import type { Journal } from '../journal/journal.ts';
import { replay } from '../journal/replay.ts';
import { DatabaseStatus } from './database-status.ts';
import { KeyedQueue } from './keyed-queue.ts';

const RETRY_MS = 1000;
const DRAIN_POLL_MS = 25;

export interface DurableOptions {
  /** How often, give or take a quarter, the database is tried again and the journal looked at. */
  readonly retryMs?: number;
  /**
   * Resolves when the database can be written to; before that nothing is replayed. It should look at the schema too:
   * what a database without tables refuses would be put aside. By default an empty write is tried.
   */
  readonly probe?: () => Promise<unknown>;
}

/**
 * The database with the journal before it: what the database does not take is kept on this host and replayed when
 * the database is back. Within a conversation nothing overtakes what waits.
 */
export class DurableWriter implements TurnWriter, PendingTurns {
  readonly #inner: TurnWriter;
  readonly #journal: Journal;
  readonly #logger: Logger;
  readonly #retryMs: number;
  readonly #probe: () => Promise<unknown>;
  readonly #quit = new AbortController();
  readonly #status: DatabaseStatus;
  /** By conversation: what is on its way to the database, and what waits for that. */
  readonly #queues = new KeyedQueue();
  readonly #underWay = new Set<Promise<unknown>>();
  /** Replies whose beginning this process put into the journal. */
  readonly #begun = new Set<string>();
  #replayed = { turns: 0, ms: 0 };
  #timer: NodeJS.Timeout | undefined;
  #trying: Promise<void> | undefined;
  #journalFault: string | undefined;
  #closed: Promise<void> | undefined;

  /** Looks at the journal at once: what waited when this host stopped is replayed. */
  constructor(inner: TurnWriter, journal: Journal, logger: Logger, options: DurableOptions = {}) {
    this.#inner = inner;
    this.#journal = journal;
    this.#logger = logger;
    this.#status = new DatabaseStatus(logger);
    this.#retryMs = options.retryMs ?? RETRY_MS;
    this.#probe = options.probe ?? (() => inner.write({}));
    this.#schedule(0);
  }

  /**
   * `journalled` when the database is away or something earlier of the conversation waits. What claims an
   * idempotency key is never journalled: only the database can say whether the key is free.
   * @throws AppError `database_unavailable` when the journal cannot take it either, or it has a key; whatever else the
   * database says, as it is
   */
  write(unit: TurnWrite): Promise<WriteOutcome> {
    if (this.#closed) return Promise.reject(databaseUnavailable('the writer is closed'));
    return this.#tracked(this.#inTurn(unit));
  }

  /**
   * While the database is away this fails at once; what fails is not journalled, because the end of the reply will
   * be. It says nothing about the database: checkpoints give way to writes and fail for being late, and the next
   * write finds out by itself.
   */
  async progress(reply: ReplyProgress): Promise<ProgressOutcome> {
    if (this.#status.isDown || this.#waits(reply.uid)) throw databaseUnavailable(undefined);
    return this.#inner.progress(reply);
  }

  /** Resolves when everything handed in is in the database or in the journal, or has failed. */
  async idle(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
    await this.#inner.idle();
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

  /** Forgets what waits of a deleted conversation and tells how much that was. */
  drop(conversationId: string): number {
    return this.#journal.drop(conversationId);
  }

  async flush(ms: number): Promise<void> {
    if (this.#journal.isEmpty()) return;
    const deadline = performance.now() + ms;
    const late = delay(ms, undefined, { ref: false });
    // One that is under way may have found the database away a moment before it came back.
    if (this.#trying) await Promise.race([this.#trying, late]);
    await Promise.race([this.#try(), late]);
    while (!this.#journal.isEmpty()) {
      const left = deadline - performance.now();
      if (left <= 0) throw databaseUnavailable(undefined, 'Not everything is in the database yet');
      await delay(Math.min(DRAIN_POLL_MS, left));
    }
  }

  /** Takes no more, waits for what is under way and closes the journal. What waits stays for the next start. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#quit.abort();
    clearTimeout(this.#timer);
    await this.idle();
    await this.#trying;
    this.#journal.close();
  }

  #tracked<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work);
    const over = () => this.#underWay.delete(work);
    work.then(over, over);
    return work;
  }

  /**
   * After what was handed in earlier of the same conversation has reached the database or the journal. Both at once
   * would save a commit; but the first may fail and the second, a reply without its question, be told it is gone.
   */
  async #inTurn(unit: TurnWrite): Promise<WriteOutcome> {
    const conversationId = conversationOf(unit);
    if (conversationId === undefined) return this.#inner.write(unit);
    if (unit.reply && unit.reply.status !== 'streaming') this.#begun.delete(unit.reply.uid);
    const { before, leave } = this.#queues.enter(conversationId);
    try {
      await before;
      // An id that was made for this question is new everywhere. The look would take 6 % of a cached chat.
      const waits = unit.start?.named !== false && this.#journal.has(conversationId);
      if (!this.#status.isDown && !waits) {
        const outcome = await this.#direct(unit);
        if (outcome !== undefined) return outcome;
      }
      return await this.#instead(unit, leave);
    } finally {
      leave();
    }
  }

  /** Undefined when the database is away. */
  async #direct(unit: TurnWrite): Promise<WriteOutcome | undefined> {
    try {
      const outcome = await this.#inner.write(unit);
      if (!this.#status.isDown) this.#status.markUp();
      return outcome;
    } catch (error) {
      if (!isUnavailable(error)) throw error;
      this.#status.markDown(error);
      if (unit.key) throw error;
      return undefined;
    }
  }

  /** @param leave lets the next of the conversation come as soon as the order of the two is settled */
  async #instead(unit: TurnWrite, leave: () => void): Promise<WriteOutcome> {
    if (unit.key) throw databaseUnavailable(undefined);
    if (unit.reply?.status === 'streaming') this.#begun.add(unit.reply.uid);
    const written = this.#journal.append(unit);
    leave();
    await written;
    return 'journalled';
  }

  /** Whether the beginning of the reply is still in the journal. */
  #waits(uid: string): boolean {
    if (!this.#begun.has(uid)) return false;
    if (this.#journal.reply(uid)) return true;
    this.#begun.delete(uid);
    return false;
  }

  #schedule(ms: number): void {
    this.#timer = setTimeout(() => void this.#try(), ms).unref();
  }

  /** Never rejects; one at a time. */
  #try(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    clearTimeout(this.#timer);
    this.#trying ??= this.#attempt().finally(() => {
      this.#trying = undefined;
      if (!this.#closed) this.#schedule(this.#retryMs * (0.75 + Math.random() / 2));
    });
    return this.#trying;
  }

  async #attempt(): Promise<void> {
    try {
      const nothing = this.#journal.isEmpty();
      if (nothing && !this.#status.isDown) return;
      if (!(await this.#probed())) return;
      const mine = !nothing && (await this.#journal.exclusively(() => this.#replay()));
      // The database answers, and nothing or another process has shown whether it takes anything: the next write will.
      if (!mine) this.#status.markProbed();
      this.#journalFault = undefined;
    } catch (error) {
      this.#blame(error);
    }
  }

  async #probed(): Promise<boolean> {
    try {
      await this.#probe();
      return true;
    } catch {
      return false;
    }
  }

  async #replay(): Promise<void> {
    const began = performance.now();
    const parts = { inner: this.#inner, journal: this.#journal, logger: this.#logger };
    const answered = () => this.#status.markUp();
    const run = await replay({ ...parts, signal: this.#quit.signal, answered });
    this.#replayed.turns += run.turns;
    this.#replayed.ms += performance.now() - began;
    if (run.fault !== undefined) this.#status.markDown(run.fault);
    else if (!this.#quit.signal.aborted) this.#tell();
  }

  /** Nothing waits any more. */
  #tell(): void {
    const { turns, ms } = this.#replayed;
    this.#replayed = { turns: 0, ms: 0 };
    this.#logger.info({ turns, ms: Math.round(ms) }, 'the journal is replayed');
  }

  /** A journal that fails fails with every attempt; one line of it is enough. */
  #blame(error: unknown): void {
    const cause = error instanceof Error ? error.cause : undefined;
    const fault = errorCode(cause) ?? String(error);
    if (fault === this.#journalFault) return;
    this.#journalFault = fault;
    this.#logger.error({ err: error }, 'the journal cannot be replayed');
  }
}
