import type { Knex } from 'knex';
import { toTime } from '../core/codec.ts';
import { dialectOf } from '../core/dialect.ts';
import type { MessageRow } from '../core/tables.ts';
import { TEXT_BYTES } from '../core/texts.ts';

/** Of so many messages the shortest is marked: SQLite writes the whole row, which can have images. */
const CANDIDATES = 10;

/**
 * Makes incremental exports find a conversation whose settings have changed, by one of its messages. Questions and ended
 * replies are not removed alone.
 */
export async function markChanged(trx: Knex, conversationId: string, epoch: number): Promise<void> {
  const dialect = dialectOf(trx);
  const [shortest] = await dialect.select<Pick<MessageRow, 'id'>>(
    trx,
    `SELECT id FROM (SELECT id, ${TEXT_BYTES} AS size FROM messages ${dialect.forceIndex('messages_conversation')}
       WHERE conversation_id = ? AND epoch = ? AND (role <> 'assistant' OR finish_reason IS NOT NULL)
       LIMIT ${CANDIDATES}) m ORDER BY size LIMIT 1`,
    [conversationId, epoch],
  );
  if (shortest)
    await trx('messages')
      .where(shortest)
      .update({ updated_at: toTime(Date.now()) });
}
