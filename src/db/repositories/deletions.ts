import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversations/conversation.ts';
import { toTime } from '../core/codec.ts';

/** Records the deletion of conversations, which the transaction has locked and deletes next. */
export async function recordDeletions(trx: Knex, ids: readonly string[], at: Instant): Promise<void> {
  const deleted = trx('conversations')
    .whereIn('id', ids)
    .select('id', 'owner', trx.raw('?', [toTime(at)]), trx.raw('0'));
  await trx(trx.raw('deletions (conversation_id, owner, deleted_at, renewed)')).insert(deleted);
}
