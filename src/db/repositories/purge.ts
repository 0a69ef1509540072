import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversations/conversation.ts';
import type { ConversationVersions, PurgeCount, PurgeStore } from '../../domain/conversations/purge.ts';
import { toTime } from '../core/codec.ts';
import { dialectOf, type ReleaseLock } from '../core/dialect.ts';
import { toAppError, transaction, withReconnect } from '../core/errors.ts';
import { FileLock } from '../core/file-lock.ts';
import { recordDeletions } from './deletions.ts';

export class KnexPurgeStore implements PurgeStore {
  readonly #knex: Knex;
  #isLocked = false;

  constructor(knex: Knex) {
    this.#knex = knex;
  }

  async countExpired(cutoff: Instant): Promise<PurgeCount> {
    const expired = this.#knex('conversations').where('last_active', '<', toTime(cutoff));
    return withReconnect(async () => {
      const [conversations] = await expired.clone().count({ count: '*' });
      const [messages] = await expired
        .clone()
        .join('messages', 'messages.conversation_id', 'conversations.id')
        .count({ count: '*' });
      return { conversations: Number(conversations?.count ?? 0), messages: Number(messages?.count ?? 0) };
    });
  }

  async candidates(cutoff: Instant, limit: number): Promise<string[]> {
    const streaming = this.#knex('messages')
      .where('conversation_id', this.#knex.ref('conversations.id'))
      .where('status', 'streaming');
    return withReconnect(() =>
      this.#knex('conversations')
        .where('last_active', '<', toTime(cutoff))
        .whereNotExists(streaming.clone())
        .orderBy('last_active')
        .limit(limit)
        .pluck('id'),
    );
  }

  versions(ids: readonly string[]): Promise<ConversationVersions> {
    return withReconnect(() => versionsOf(this.#knex, ids));
  }

  async delete(
    ids: readonly string[],
    cutoff: Instant,
    versions?: ConversationVersions,
  ): Promise<PurgeCount> {
    try {
      return await transaction(this.#knex, (trx) => deleteIdle(trx, ids, toTime(cutoff), versions));
    } catch (error) {
      throw toAppError(error);
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

  async exclusively<T>(work: () => Promise<T>): Promise<T | null> {
    if (this.#isLocked) return null;
    this.#isLocked = true;
    try {
      const unlock = await withReconnect(() => this.#lock());
      return unlock ? await work().finally(unlock) : null;
    } finally {
      this.#isLocked = false;
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
}

async function deleteIdle(
  trx: Knex,
  candidates: readonly string[],
  cutoff: string,
  versions: ConversationVersions | undefined,
): Promise<PurgeCount> {
  const locked = await dialectOf(trx).lockConversations(trx, [...candidates].sort());
  const expired = locked.filter((row) => row.last_active < cutoff).map((row) => row.id);
  const streaming = await trx('messages')
    .whereIn('conversation_id', expired)
    .where('status', 'streaming')
    .pluck('conversation_id');
  const idle = expired.filter((id) => !streaming.includes(id));
  const now = versions && (await versionsOf(trx, idle));
  const ids = now ? idle.filter((id) => now.get(id) === versions.get(id)) : idle;
  if (ids.length === 0) return { conversations: 0, messages: 0 };
  const [messages] = await trx('messages').whereIn('conversation_id', ids).count({ count: '*' });
  await recordDeletions(trx, ids, Date.now());
  const conversations = await trx('conversations').whereIn('id', ids).delete();
  return { conversations, messages: Number(messages?.count ?? 0) };
}

/** From `updated_at`, which every write of a message sets. */
async function versionsOf(knex: Knex, ids: readonly string[]): Promise<ConversationVersions> {
  const rows = await knex('conversations')
    .leftJoin('messages', 'messages.conversation_id', 'conversations.id')
    .whereIn('conversations.id', ids)
    .groupBy('conversations.id', 'last_active')
    .select('conversations.id', 'last_active')
    .count({ count: 'messages.id' })
    .max({ newest: 'messages.id', changed: 'updated_at' });
  return new Map(rows.map((row) => [row.id, JSON.stringify(row)]));
}
