import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { ConversationCursor, Counts, Instant } from '../../domain/conversations/conversation.ts';
import type {
  ConversationVersions,
  PendingDeletion,
  PurgeLock,
  PurgeStore,
  RemovalOptions,
} from '../../domain/conversations/purge.ts';
import { fromTime, toTime } from '../core/codec.ts';
import { dialectOf, placeholders, type ReleaseLock } from '../core/dialect.ts';
import { asAppErrors, select, transaction, withReconnect } from '../core/errors.ts';
import { FileLock } from '../core/file-lock.ts';
import { FIRST, LAST, messageOrder, positionOf, readBetween } from '../core/order.ts';
import type { ConversationRow, MessageRow } from '../core/tables.ts';
import { hideConversations, pendingDeletions, removeDeleted } from './deletions.ts';
import { abandonUnfinished } from './unfinished.ts';

type IdleRow = Pick<ConversationRow, 'id' | 'last_active' | 'pinned' | 'deleted_at'>;

const COUNT_PAGE = 20;
const VERSION_PAGE = 2000;

export class KnexPurgeStore implements PurgeStore {
  readonly #knex: Knex;
  readonly #held = new Set<PurgeLock>();

  constructor(knex: Knex) {
    this.#knex = knex;
  }

  /** In pages, so that no statement runs for long. */
  async countExpired(cutoff: Instant): Promise<Counts> {
    const count = { conversations: 0, messages: 0 };
    let after: ConversationCursor | null = null;
    for (;;) {
      const page: ConversationCursor[] = await this.candidates(cutoff, after, COUNT_PAGE);
      after = page.at(-1) ?? null;
      if (!after) return count;
      count.conversations += page.length;
      count.messages += await this.#countMessages(page.map(({ id }) => id));
      await nextTurn();
    }
  }

  /** Pinned and deleted ones are left out here: a LIMIT on the others could look at all of them. */
  async candidates(
    cutoff: Instant,
    after: ConversationCursor | null,
    limit: number,
  ): Promise<ConversationCursor[]> {
    for (let before = after; ; ) {
      const rows = await this.#idle(cutoff, before, limit);
      const expired = rows.filter(({ pinned, deleted_at }) => pinned === 0 && deleted_at === null);
      const last = rows.at(-1);
      if (expired.length > 0 || !last || rows.length < limit) return expired.map(cursorOf);
      before = cursorOf(last);
      await nextTurn();
    }
  }

  #idle(cutoff: Instant, after: ConversationCursor | null, limit: number): Promise<IdleRow[]> {
    const from = toTime(after?.lastActive ?? Number.NEGATIVE_INFINITY);
    const dialect = dialectOf(this.#knex);
    return select(
      this.#knex,
      `SELECT id, last_active, pinned, deleted_at FROM conversations ${dialect.forceIndex('conversations_last_active')}
       WHERE last_active >= ? AND last_active < ? AND (last_active > ? OR id > ?)
       ORDER BY last_active, id LIMIT ?`,
      [from, toTime(cutoff), from, after?.id ?? '', limit],
    );
  }

  versions(ids: readonly string[]): Promise<ConversationVersions> {
    return withReconnect(() => versionsOf(this.#knex, ids));
  }

  hide(ids: readonly string[], cutoff: Instant, versions?: ConversationVersions): Promise<PendingDeletion[]> {
    return asAppErrors(() => transaction(this.#knex, (trx) => hideIdle(trx, ids, toTime(cutoff), versions)));
  }

  abandonUnfinished(now: Instant): Promise<void> {
    return abandonUnfinished(this.#knex, now);
  }

  pendingDeletions(after: number, limit: number): Promise<PendingDeletion[]> {
    return pendingDeletions(this.#knex, after, limit);
  }

  remove(deletions: readonly PendingDeletion[], options: RemovalOptions): Promise<boolean> {
    return removeDeleted(this.#knex, deletions, options);
  }

  async forgetDeletions(before: Instant, limit: number): Promise<number> {
    return withReconnect(async () => {
      const ids = await this.#knex('deletions')
        .where('deleted_at', '<', toTime(before))
        .where('pending', 0)
        .limit(limit)
        .pluck('id');
      return ids.length === 0 ? 0 : this.#knex('deletions').whereIn('id', ids).delete();
    });
  }

  async countLeft(cutoff: Instant): Promise<number> {
    const expired = this.#knex('conversations').where('last_active', '<', toTime(cutoff)).where('pinned', 0);
    const [row] = await withReconnect(() => expired.clone().count({ count: '*' }));
    return Number(row?.count ?? 0);
  }

  async exclusively<T>(lock: PurgeLock, work: () => Promise<T>): Promise<T | null> {
    if (this.#held.has(lock)) return null;
    this.#held.add(lock);
    try {
      const unlock = await withReconnect(() => this.#lock(lock));
      return unlock ? await work().finally(unlock) : null;
    } finally {
      this.#held.delete(lock);
    }
  }

  async #countMessages(ids: readonly string[]): Promise<number> {
    const messages = this.#knex('messages')
      .join('conversations', 'conversations.id', 'messages.conversation_id')
      .whereIn('messages.conversation_id', ids)
      .where('messages.epoch', this.#knex.ref('conversations.epoch'));
    const [row] = await withReconnect(() => messages.clone().count({ count: '*' }));
    return Number(row?.count ?? 0);
  }

  async #lock(name: PurgeLock): Promise<ReleaseLock | null> {
    const dialect = dialectOf(this.#knex);
    if (dialect.pooled || name === 'removal') return dialect.advisoryLock(this.#knex, `chat-${name}`, 0);
    // SQLite has no advisory locks.
    const lock = new FileLock(`${this.#knex.client.config.connection.filename}-purge.lock`);
    if (lock.tryAcquire()) return async () => lock.close();
    lock.close();
    return null;
  }
}

function cursorOf({ id, last_active }: IdleRow): ConversationCursor {
  return { id, lastActive: fromTime(last_active) };
}

/** On SQLite no statement waits for anything, so that other work gets its turn only where it is given one. */
async function hideIdle(
  trx: Knex,
  candidates: readonly string[],
  cutoff: string,
  versions: ConversationVersions | undefined,
): Promise<PendingDeletion[]> {
  const locked = await dialectOf(trx).lockConversations(trx, [...candidates].sort());
  await nextTurn();
  const expired = locked.filter(
    (row) => row.deleted_at === null && row.pinned === 0 && row.last_active < cutoff,
  );
  const streaming = await streamingConversations(trx);
  await nextTurn();
  const idle = expired.map((row) => row.id).filter((id) => !streaming.has(id));
  const now = versions && (await versionsOf(trx, idle));
  const ids = now ? idle.filter((id) => now.get(id) === versions.get(id)) : idle;
  await nextTurn();
  return ids.length === 0 ? [] : hideConversations(trx, ids, Date.now());
}

/** By the index of running replies: the messages of the candidates can be many. */
async function streamingConversations(trx: Knex): Promise<Set<string>> {
  const index = dialectOf(trx).forceIndex('messages_worker');
  const ids = await trx
    .from(trx.raw(`messages ${index}`))
    .whereNotNull('worker')
    .whereIn('status', ['streaming', 'superseded'])
    .pluck<string[]>('conversation_id');
  return new Set(ids);
}

/** From `updated_at`, which every write of a message sets. In pages, so that no statement reads all of a long one. */
async function versionsOf(knex: Knex, ids: readonly string[]): Promise<ConversationVersions> {
  const heads = await knex('conversations')
    .whereIn('id', ids)
    .orderBy('id')
    .select('id', 'last_active', 'epoch', 'title', 'metadata');
  const versions = new Map(heads.map((head) => [head.id, { ...head, count: 0, newest: FIRST, changed: '' }]));
  for (const [epoch, group] of Map.groupBy(heads, (head) => head.epoch)) {
    let after = FIRST;
    for (let left = group; left.length > 0; ) {
      const wanted = after === FIRST ? left : left.slice(0, 1);
      const rows = await versionPage(
        knex,
        wanted.map(({ id }) => id),
        epoch,
        after,
      );
      for (const row of rows) {
        const version = versions.get(row.conversation_id);
        if (!version) continue;
        version.count += 1;
        version.newest = positionOf(row);
        if (row.updated_at > version.changed) version.changed = row.updated_at;
      }
      const last = rows.length < VERSION_PAGE ? undefined : rows.at(-1);
      // Shorter than a page: the rest of one conversation, or all that were asked for.
      left = last
        ? left.slice(left.findIndex(({ id }) => id === last.conversation_id))
        : left.slice(wanted.length);
      after = last ? positionOf(last) : FIRST;
      await nextTurn();
    }
  }
  return new Map([...versions].map(([id, version]) => [id, JSON.stringify(version)]));
}

function versionPage(
  knex: Knex,
  ids: readonly string[],
  epoch: number,
  after: number,
): Promise<Pick<MessageRow, 'conversation_id' | 'seq' | 'id' | 'updated_at'>[]> {
  return readBetween(after, LAST, VERSION_PAGE, ({ sql, bindings }, limit) =>
    dialectOf(knex).select(
      knex,
      `SELECT conversation_id, seq, id, updated_at FROM messages ${dialectOf(knex).forceIndex('messages_conversation')}
       WHERE conversation_id IN (${placeholders(ids.length)}) AND epoch = ? ${sql} ${messageOrder()} LIMIT ?`,
      [...ids, epoch, ...bindings, limit],
    ),
  );
}
