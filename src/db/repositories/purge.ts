import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversation.ts';
import type { PurgeCount, PurgeStore } from '../../domain/purge.ts';
import { toTime } from '../core/codec.ts';
import { dialectOf, placeholders, type ReleaseLock } from '../core/dialect.ts';
import { toAppError, transaction, withReconnect } from '../core/errors.ts';
import { FileLock } from '../core/file-lock.ts';
import { recordDeletions } from './deletions.ts';

/** A reply that is being written belongs to a conversation in use, whatever its last activity says. */
const STREAMING = `messages.status = 'streaming'`;

const NOTHING: PurgeCount = { conversations: 0, messages: 0 };

export class KnexPurgeStore implements PurgeStore {
  readonly #knex: Knex;
  #purging = false;

  constructor(knex: Knex) {
    this.#knex = knex;
  }

  async countExpired(cutoff: Instant): Promise<PurgeCount> {
    const time = toTime(cutoff);
    return withReconnect(async () => {
      const [conversations] = await this.#knex('conversations')
        .where('last_active', '<', time)
        .count({ count: '*' });
      const [messages] = await this.#knex('conversations')
        .join('messages', 'messages.conversation_id', 'conversations.id')
        .where('last_active', '<', time)
        .count({ count: '*' });
      return { conversations: Number(conversations?.count ?? 0), messages: Number(messages?.count ?? 0) };
    });
  }

  /** Candidates are looked for without a lock; all of a batch may be in use again, then the next are looked for. */
  async deleteExpired(
    cutoff: Instant,
    limit: number,
    keep?: (ids: readonly string[]) => Promise<void>,
  ): Promise<PurgeCount> {
    const time = toTime(cutoff);
    for (;;) {
      const ids = await withReconnect(() => this.#candidates(time, limit));
      if (ids.length === 0) return NOTHING;
      const kept = keep && (await withReconnect(() => versionsOf(this.#knex, ids)));
      await keep?.(ids);
      const count = await this.#delete(ids, time, kept);
      if (count.conversations > 0) return count;
    }
  }

  async forgetDeletions(before: Instant, limit: number): Promise<number> {
    return withReconnect(async () => {
      const ids = await this.#knex('deletions')
        .where('deleted_at', '<', toTime(before))
        .limit(limit)
        .pluck('id');
      return ids.length === 0 ? 0 : this.#knex('deletions').whereIn('id', ids).delete();
    });
  }

  async exclusively(work: () => Promise<void>): Promise<boolean> {
    if (this.#purging) return false;
    this.#purging = true;
    try {
      const unlock = await withReconnect(() => this.#lock());
      if (!unlock) return false;
      await work().finally(unlock);
      return true;
    } finally {
      this.#purging = false;
    }
  }

  async #lock(): Promise<ReleaseLock | null> {
    const dialect = dialectOf(this.#knex);
    if (dialect.pooled) return dialect.advisoryLock(this.#knex, 'chat-purge', 0);
    // SQLite has no advisory locks.
    const lock = new FileLock(`${this.#knex.client.config.connection.filename}-purge.lock`);
    if (lock.tryAcquire()) return async () => lock.close();
    lock.close();
    return null;
  }

  #candidates(time: string, limit: number): Promise<string[]> {
    return this.#knex('conversations')
      .where('last_active', '<', time)
      .whereNotExists(this.#knex('messages').whereRaw(`conversation_id = conversations.id AND ${STREAMING}`))
      .orderBy('last_active')
      .limit(limit)
      .pluck('id');
  }

  /** @param kept what they were when they were kept; those that are something else now are left alone */
  async #delete(
    candidates: readonly string[],
    time: string,
    kept: ReadonlyMap<string, string> | undefined,
  ): Promise<PurgeCount> {
    const dialect = dialectOf(this.#knex);
    try {
      return await transaction(this.#knex, async (trx) => {
        const locked = await dialect.lockConversations(trx, [...candidates].sort());
        const expired = locked.filter((row) => row.last_active < time).map((row) => row.id);
        const growing = await trx('messages')
          .whereIn('conversation_id', expired)
          .whereRaw(STREAMING)
          .pluck('conversation_id');
        const idle = expired.filter((id) => !growing.includes(id));
        const now = kept && (await versionsOf(trx, idle));
        const ids = now ? idle.filter((id) => now.get(id) === kept.get(id)) : idle;
        if (ids.length === 0) return NOTHING;
        const [messages] = await trx('messages').whereIn('conversation_id', ids).count({ count: '*' });
        await recordDeletions(trx, ids, Date.now());
        const conversations = await trx('conversations')
          .whereIn('id', ids)
          .where('last_active', '<', time)
          .delete();
        return { conversations, messages: Number(messages?.count ?? 0) };
      });
    } catch (error) {
      throw toAppError(error);
    }
  }
}

/** What tells whether anything of the conversations has changed: every write of a message notes its time. */
async function versionsOf(knex: Knex, ids: readonly string[]): Promise<Map<string, string>> {
  if (ids.length === 0) return new Map();
  const rows = await dialectOf(knex).select<{ id: string }>(
    knex,
    `SELECT c.id, c.last_active, COUNT(m.id) AS count, MAX(m.id) AS newest, MAX(m.updated_at) AS changed
     FROM conversations c LEFT JOIN messages m ON m.conversation_id = c.id
     WHERE c.id IN (${placeholders(ids.length)}) GROUP BY c.id, c.last_active`,
    ids,
  );
  return new Map(rows.map((row) => [row.id, JSON.stringify(row)]));
}
