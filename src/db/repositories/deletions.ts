import type { Knex } from 'knex';
import type { Instant } from '../../domain/conversation.ts';
import { toTime } from '../core/codec.ts';
import { placeholders } from '../core/dialect.ts';

/** Notes that the conversations, which the transaction has locked and deletes next, are gone as of `at`. */
export async function recordDeletions(trx: Knex, ids: readonly string[], at: Instant): Promise<void> {
  await trx.raw(
    `INSERT INTO deletions (conversation_id, owner, deleted_at, renewed)
     SELECT id, owner, ?, 0 FROM conversations WHERE id IN (${placeholders(ids.length)})`,
    [toTime(at), ...ids],
  );
}
