import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import { ImportError, type ImportResult } from '../../domain/conversations/imports.ts';
import { pause } from '../../util/timers.ts';
import { type Dialect, dialectOf, type LockedConversation, runAll } from '../core/dialect.ts';
import { transaction, withDeadlockRetry } from '../core/errors.ts';
import type { Statement } from '../core/packets.ts';
import {
  completeUnfinished,
  discardUnfinished,
  markOf,
  renewUnfinished,
  SETTLED_AFTER_MS,
} from '../repositories/unfinished.ts';
import type { Draft, Slice } from './draft.ts';
import {
  ATTEMPTS,
  explainDuplicate,
  isDuplicate,
  RETRY_MS,
  rejectRepeated,
  resultOf,
  SKIPPED,
} from './outcomes.ts';

/** How often the mark of an unfinished conversation is renewed. */
const RENEW_MS = 60_000;
const USED = 'the conversation was used or removed while it was imported; import it again';

/** Writes long conversations, whose messages are read one by one. */
export class LongImports {
  readonly #knex: Knex;
  readonly #batches: Knex;
  readonly #dialect: Dialect;

  /** @param batches for {@link Dialect.batch} */
  constructor(knex: Knex, batches: Knex) {
    this.#knex = knex;
    this.#batches = batches;
    this.#dialect = dialectOf(knex);
  }

  /** It cannot be repeated, because the messages are read once. @throws ImportError */
  async write(draft: Draft): Promise<ImportResult> {
    const [found] = await this.#knex('conversations').where({ id: draft.id }).select('id');
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
      await explainDuplicate(this.#knex, error, draft.id, last);
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
      // The row was removed, or another session has locked it.
      if (attempt === ATTEMPTS) return false;
      await pause(RETRY_MS);
    }
  }

  /** In one transaction: the messages of the conversation that it replaces can have the same ids. */
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
      return await resultOf(this.#knex, draft, outcome);
    } catch (error) {
      await explainDuplicate(this.#knex, error, id, last);
      throw error;
    }
  }
}
