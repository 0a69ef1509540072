import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import {
  ImportError,
  type ImportedConversation,
  type ImportOptions,
  type ImportResult,
  type ImportStore,
} from '../../domain/conversations/imports.ts';
import { type Dialect, dialectOf, type LockedConversation } from '../core/dialect.ts';
import type { ErrorClass } from '../core/error-classes.ts';
import { asAppErrors, classifyError, withDeadlockRetry } from '../core/errors.ts';
import type { PacketLimit } from '../core/packets.ts';
import { Draft, type Slice, type WholeConversation, wholeWrites } from './draft.ts';
import { LongImports } from './long-imports.ts';
import { explainDuplicate, resultOf, SKIPPED } from './outcomes.ts';

/** Writes whole conversations with their ids. */
export class KnexImports implements ImportStore {
  readonly #knex: Knex;
  readonly #batches: Knex;
  readonly #dialect: Dialect;
  readonly #long: LongImports;
  #packet: Promise<PacketLimit> | undefined;

  /** @param batches for {@link Dialect.batch} */
  constructor(knex: Knex, batches: Knex) {
    this.#knex = knex;
    this.#batches = batches;
    this.#dialect = dialectOf(knex);
    this.#long = new LongImports(knex, batches);
  }

  write(conversations: readonly ImportedConversation[], options: ImportOptions): Promise<ImportResult[]> {
    return asAppErrors(async () => {
      const { bytes } = await this.#limit();
      const known = await this.#writeFree(conversations, options, bytes);
      const results: ImportResult[] = [];
      for (const one of conversations) {
        const result = known.get(one.id);
        if (!result) await nextTurn();
        results.push(result ?? (await this.#writeOne(one, options, bytes)));
      }
      return results;
    });
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
        ? await this.#long.write(new Draft(conversation, options, maxBytes))
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
        return await resultOf(this.#knex, draft, outcome);
      } catch (error) {
        await explainDuplicate(this.#knex, error, id, slices, attempt);
      }
    }
  }
}

/** After other errors it is unknown whether the transaction was committed. */
const ROLLED_BACK: readonly (ErrorClass | undefined)[] = [undefined, 'transient', 'locked'];
