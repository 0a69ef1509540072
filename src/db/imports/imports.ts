import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import {
  ImportError,
  type ImportedConversation,
  type ImportOptions,
  type ImportOutcome,
  type ImportResult,
  type ImportStore,
  MessageTakenError,
} from '../../domain/conversations/imports.ts';
import { errorCode } from '../../domain/errors.ts';
import { pause } from '../../util/timers.ts';
import { type Dialect, dialectOf, type LockedConversation, runAll } from '../core/dialect.ts';
import type { ErrorClass } from '../core/error-classes.ts';
import { classifyError, databaseBusy, toAppError, transaction, withDeadlockRetry } from '../core/errors.ts';
import type { PacketLimit, Statement } from '../core/packets.ts';
import { removeDeleted } from '../repositories/deletions.ts';
import {
  completeUnfinished,
  discardUnfinished,
  markOf,
  renewUnfinished,
  SETTLED_AFTER_MS,
} from '../repositories/unfinished.ts';
import { Draft, type Slice, type WholeConversation, wholeWrites } from './draft.ts';

/** How often a conversation is tried that another process creates or locks. */
const ATTEMPTS = 20;
const RETRY_MS = 50;
/** How long an import removes the rows of a replaced conversation; the rest is removed in the background. */
const REMOVE_MS = 300;

/** How often the mark of an unfinished conversation is renewed. */
const RENEW_MS = 60_000;
const USED = 'the conversation was used or removed while it was imported; import it again';

const SKIPPED: ImportResult = { outcome: 'skipped', messages: 0 };

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
        const result = known.get(one.id);
        if (!result) await nextTurn();
        results.push(result ?? (await this.#writeOne(one, options, bytes)));
      }
      return results;
    } catch (error) {
      throw toAppError(error);
    }
  }

  /**
   * Writes those whose ids are free, in one transaction and about one round trip, and skips those that exist. The
   * others, or all of them when the transaction fails, have no result: they are written with locks, one by one.
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
    const wholes = new Map<Draft, WholeConversation>();
    for (const conversation of conversations) {
      if (found.has(conversation.id)) continue;
      const draft = new Draft(conversation, options, maxBytes);
      const whole = await draft.whole().catch(() => undefined);
      if (whole) wholes.set(draft, whole);
    }
    if (wholes.size === 0) return results;
    const writes = wholeWrites([...wholes.values()]);
    // Building the statements blocks the event loop, and so does running them on SQLite.
    await nextTurn();
    try {
      await this.#dialect.batch(this.#batches, [], () => ({ writes, result: undefined }));
    } catch (error) {
      if (!ROLLED_BACK.includes(classifyError(error))) throw error;
      return results;
    }
    for (const { id, count } of wholes.keys()) results.set(id, { outcome: 'imported', messages: count });
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
            const writes = slices.flatMap((slice) => draft.insert(slice));
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
    const [found] = await this.#knex('conversations').where({ id }).select('id');
    if (!found && (await this.#begin(draft))) return this.#writeUnfinished(draft);
    return this.#writeOver(draft);
  }

  /** @returns false when another process has just created the conversation */
  async #begin(draft: Draft): Promise<boolean> {
    const writes = draft.beginUnfinished();
    try {
      await this.#dialect.batch(this.#batches, [], () => ({ writes, result: undefined }));
      return true;
    } catch (error) {
      if (!isDuplicate(error)) throw error;
      return false;
    }
  }

  /** In a transaction for each slice: one for all would hold the lock of SQLite's file, and its only connection. */
  async #writeUnfinished(draft: Draft): Promise<ImportResult> {
    const started = Date.now();
    let renewedAt = started;
    let last: Slice[] = [];
    const mark = await markOf(this.#knex, draft.id);
    try {
      for await (const slice of draft.slices()) {
        last = [slice];
        const writes = draft.insert(slice);
        if (Date.now() - renewedAt > RENEW_MS) {
          renewedAt = Date.now();
          writes.push(renewUnfinished(mark, renewedAt));
        }
        if (!(await this.#commit(draft, writes))) return await this.#used(draft);
      }
      // Without `last_seq`: a turn may have begun the conversation meanwhile, and has its own.
      for (const statement of draft.ratings()) {
        if (!(await this.#commit(draft, [statement]))) return await this.#used(draft);
      }
      const renewed = Date.now() - started > SETTLED_AFTER_MS ? Date.now() : null;
      if (!(await this.#show(draft, mark, renewed))) return await this.#used(draft);
      return { outcome: 'imported', messages: draft.count };
    } catch (error) {
      if (isDuplicate(error)) for (const slice of last) await rejectRepeated(this.#knex, draft, slice);
      await this.#explain(error, draft.id, last, ATTEMPTS);
      throw error;
    } finally {
      // Does nothing when it is visible.
      await discardUnfinished(this.#knex, draft.id, mark).catch(() => {});
    }
  }

  /** A turn or another import has begun the conversation, or it was removed as abandoned. */
  async #used({ id, replaces }: Draft): Promise<ImportResult> {
    const [found] = await this.#knex('conversations').where({ id, deleted_at: null }).select('id');
    if (!found || replaces) throw new ImportError(USED);
    return SKIPPED;
  }

  /** @returns false when the conversation is not this import's any more */
  #show(draft: Draft, mark: number, renewed: number | null): Promise<boolean> {
    const { id, count } = draft;
    return transaction(this.#knex, async (trx) => {
      const [found] = await this.#dialect.lockConversations(trx, [id]);
      if (!found || !draft.owns(found) || !(await completeUnfinished(trx, mark, renewed))) return false;
      const visible = { epoch: 0, deleted_at: null, last_seq: count };
      await trx('conversations').where({ id }).update(visible);
      return true;
    });
  }

  /**
   * Others are served before the next one.
   * @returns false, and writes nothing, when the conversation is not this import's any more
   */
  async #commit(draft: Draft, writes: readonly Statement[]): Promise<boolean> {
    const read = { sql: this.#dialect.lockSql(1), bindings: [draft.id] };
    for (let attempt = 1; ; attempt++) {
      const found = await withDeadlockRetry(() =>
        this.#dialect.batch(this.#batches, [read], ([rows = []]) => {
          const [row] = rows as LockedConversation[];
          return { writes: row && draft.owns(row) ? writes : [], result: row };
        }),
      );
      await nextTurn();
      if (found) return draft.owns(found);
      // It is gone, or somebody has locked it.
      if (attempt === ATTEMPTS) return false;
      await pause(RETRY_MS);
    }
  }

  async #writeOver(draft: Draft): Promise<ImportResult> {
    const { id } = draft;
    let last: Slice[] = [];
    try {
      const outcome = await this.#knex.transaction(async (trx) => {
        const [found] = await this.#dialect.lockConversations(trx, [id]);
        const { outcome, writes } = draft.begin(found);
        if (outcome === 'skipped') return outcome;
        await runAll(trx, writes);
        for await (const slice of draft.slices()) {
          last = [slice];
          try {
            await runAll(trx, draft.insert(slice));
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

function occursTwice(uid: string): ImportError {
  return new ImportError(`the message ${uid} occurs twice`);
}

/** The slices before have the message too. @throws ImportError */
async function rejectRepeated(trx: Knex, { id, epoch }: Draft, { uids }: Slice): Promise<void> {
  const [repeated] = await trx('messages')
    .whereIn('uid', uids)
    .whereRaw('+conversation_id = ? AND epoch = ?', [id, epoch])
    .select('uid')
    .limit(1);
  if (repeated) throw occursTwice(repeated.uid);
}

/** After other errors it is unknown whether the transaction was committed. */
const ROLLED_BACK: readonly (ErrorClass | undefined)[] = [undefined, 'transient', 'locked'];

const DUPLICATES = ['ER_DUP_ENTRY', 'SQLITE_CONSTRAINT_UNIQUE', 'SQLITE_CONSTRAINT_PRIMARYKEY'];

function isDuplicate(error: unknown): boolean {
  return DUPLICATES.includes(errorCode(error) ?? '');
}
