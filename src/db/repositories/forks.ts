import { hash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversations/conversation.ts';
import type { Fork, ForkOutcome, ForkStore } from '../../domain/conversations/forks.ts';
import { toTime } from '../core/codec.ts';
import { type Dialect, dialectOf, runAll } from '../core/dialect.ts';
import { asAppErrors, databaseBusy, select, transaction } from '../core/errors.ts';
import { FIRST, firstRange, messageOrder, positionOf, readBetween } from '../core/order.ts';
import { columnsOf, type MessageRow, SETTINGS_COLUMNS } from '../core/tables.ts';
import { TEXT_BYTES } from '../core/texts.ts';
import {
  completeUnfinished,
  discardUnfinished,
  markOf,
  markUnfinished,
  SETTLED_AFTER_MS,
  UNFINISHED_EPOCH,
} from './unfinished.ts';

/** A fork that takes longer is given up. */
const MAX_MS = SETTLED_AFTER_MS;
/** Messages that one statement copies, and the bytes; on SQLite a statement blocks the event loop. */
const SLICE = 100;
const SLICE_BYTES = 1_000_000;
const SLICE_BYTES_ON_SQLITE = 250_000;

const SETTINGS = SETTINGS_COLUMNS.replace('title, ', '');
const COPIED =
  'role, content, timestamp, status, model, finish_reason, `usage`, length, format, reasoning, reasoning_length, details';

type SourceRow = Pick<MessageRow, 'id' | 'seq' | 'uid' | 'reply_to' | 'status'> & { readonly size: number };

/** Copies conversations. A copy is invisible until it is complete, see `unfinished.ts`. */
export class KnexForks implements ForkStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;

  constructor(knex: Knex) {
    this.#knex = knex;
    this.#dialect = dialectOf(knex);
  }

  fork(fork: Fork): Promise<ForkOutcome> {
    return asAppErrors(async () => {
      const until = await this.#lastMessage(fork);
      await this.#begin(fork);
      const mark = await markOf(this.#knex, fork.id);
      const outcome = await this.#copy(fork, until, mark).catch(async (error: unknown) => {
        await discardUnfinished(this.#knex, fork.id, mark).catch(() => {});
        throw error;
      });
      if (outcome !== 'forked') await discardUnfinished(this.#knex, fork.id, mark);
      return outcome;
    });
  }

  async #copy(fork: Fork, until: number, mark: number): Promise<ForkOutcome> {
    const started = performance.now();
    let copied = 0;
    for (let after = FIRST; after < until; ) {
      if (performance.now() - started > MAX_MS) throw databaseBusy('a fork took too long');
      const slice = this.#fitting(await this.#slice(fork, after, until));
      if (slice.some(({ status }) => status === 'streaming')) return 'streaming';
      const last = slice.at(-1);
      // The last message is superseded or deleted.
      if (!last) return 'changed';
      const from = copied;
      await transaction(this.#knex, (trx) => this.#insert(trx, fork, slice, from));
      copied += slice.length;
      after = positionOf(last);
      await nextTurn();
    }
    return (await this.#finish(fork, until, copied, mark)) ? 'forked' : 'changed';
  }

  /** The position of the last message to copy. */
  async #lastMessage({ source, until }: Fork): Promise<number> {
    if (until !== null) return until;
    const [last] = await select<Pick<MessageRow, 'id' | 'seq'>>(
      this.#knex,
      `SELECT id, seq FROM messages ${this.#dialect.forceIndex('messages_conversation')}
       WHERE conversation_id = ? AND epoch = ? AND status <> 'superseded' ${messageOrder('DESC')} LIMIT 1`,
      [source.id, source.epoch],
    );
    return last ? positionOf(last) : FIRST;
  }

  #begin({ source, id, title, at }: Fork): Promise<void> {
    const time = toTime(at);
    return transaction(this.#knex, async (trx) => {
      await trx.raw(
        `INSERT INTO conversations (id, owner, created_at, last_active, epoch, deleted_at, title, ${SETTINGS})
         SELECT ?, owner, ?, ?, ${UNFINISHED_EPOCH}, ?, COALESCE(?, title), ${SETTINGS}
         FROM conversations WHERE id = ?`,
        [id, time, time, time, title, source.id],
      );
      await runAll(trx, [markUnfinished(id, at)]);
    });
  }

  #slice({ source }: Fork, after: number, until: number): Promise<SourceRow[]> {
    return readBetween(after, until, SLICE, ({ sql, bindings }, limit) =>
      select<SourceRow>(
        this.#knex,
        `SELECT id, seq, uid, reply_to, status, ${TEXT_BYTES} AS size
         FROM messages ${this.#dialect.forceIndex('messages_conversation')}
         WHERE conversation_id = ? AND epoch = ? ${sql} AND status <> 'superseded' ${messageOrder()} LIMIT ?`,
        [source.id, source.epoch, ...bindings, limit],
      ),
    );
  }

  /** At least one. */
  #fitting(rows: readonly SourceRow[]): readonly SourceRow[] {
    let left = this.#dialect.pooled ? SLICE_BYTES : SLICE_BYTES_ON_SQLITE;
    const end = rows.findIndex(({ size }, index) => {
      left -= size;
      return index > 0 && left < 0;
    });
    return end === -1 ? rows : rows.slice(0, end);
  }

  /** The database copies the contents, so that they do not pass through this process. @param copied messages before */
  async #insert(trx: Knex, { id, at }: Fork, rows: readonly SourceRow[], copied: number): Promise<void> {
    const copies = rows
      .map(() => 'SELECT ? AS source, ? AS copy, ? AS answered, ? AS seq')
      .join(' UNION ALL ');
    await trx.raw(
      `INSERT INTO messages (uid, reply_to, seq, conversation_id, epoch, updated_at, ${COPIED})
       SELECT c.copy, c.answered, c.seq, ?, 0, ?, ${columnsOf('m', COPIED)}
       FROM (${copies}) c JOIN messages m ON m.id = c.source`,
      [
        id,
        toTime(Date.now()),
        ...rows.flatMap((row, index) => [
          row.id,
          copiedId(id, row.uid, at),
          row.reply_to && copiedId(id, row.reply_to, at),
          copied + index + 1,
        ]),
      ],
    );
  }

  /** @returns false when the source is not as it was, or the copy was taken for abandoned */
  #finish({ source, id, at }: Fork, until: number, copied: number, mark: number): Promise<boolean> {
    return transaction(this.#knex, async (trx) => {
      const locked = await this.#dialect.lockConversations(trx, [source.id, id].sort());
      const [from, copy] = [source.id, id].map((wanted) => locked.find((row) => row.id === wanted));
      if (!from || !copy || from.deleted_at !== null || from.epoch !== source.epoch) return false;
      // Superseding messages supersedes every later one too.
      const { sql, bindings } = firstRange(until - 1, until);
      const last = await this.#dialect.select(
        trx,
        `SELECT 1 FROM messages WHERE conversation_id = ? AND epoch = ? ${sql} AND status <> 'superseded'`,
        [source.id, source.epoch, ...bindings],
      );
      if (until > FIRST && last.length === 0) return false;
      if (!(await completeUnfinished(trx, mark))) return false;
      await trx('conversations')
        .where({ id })
        .update({ epoch: 0, deleted_at: null, last_active: toTime(at), last_seq: copied });
      return true;
    });
  }
}

/** A UUIDv7 that follows from the two ids, so that references need no table of what was copied. */
function copiedId(fork: string, uid: string, at: Instant): string {
  const time = at.toString(16).padStart(12, '0');
  const random = hash('sha256', `${fork} ${uid}`);
  const variant = ((Number.parseInt(random.slice(3, 4), 16) & 3) | 8).toString(16);
  return [
    time.slice(0, 8),
    time.slice(8),
    `7${random.slice(0, 3)}`,
    `${variant}${random.slice(4, 7)}`,
    random.slice(7, 19),
  ].join('-');
}
