import type { Knex } from 'knex';
import type { Feedback } from '../../domain/conversations/conversation.ts';
import { toTime } from '../core/codec.ts';
import { dialectOf } from '../core/dialect.ts';
import { select, toAppError, transaction } from '../core/errors.ts';
import type { MessageRow } from '../core/tables.ts';

type Reply = Pick<MessageRow, 'id' | 'conversation_id' | 'epoch' | 'reply_to'>;

/**
 * Sets or removes the feedback of a reply. Its question is marked with the ratings of all its replies, so that exports
 * find both by one column.
 * @returns false when the reply is gone
 */
export async function saveFeedback(knex: Knex, uid: string, feedback: Feedback | null): Promise<boolean> {
  try {
    const [reply] = await select<Reply>(
      knex,
      `SELECT id, conversation_id, epoch, reply_to FROM messages WHERE uid = ? AND role = 'assistant'`,
      [uid],
    );
    if (!reply) return false;
    return await transaction(knex, async (trx) => {
      // Of two ratings at the same time, the second one must see the first one to mark the question.
      const [locked] = await dialectOf(trx).lockConversations(trx, [reply.conversation_id]);
      if (locked?.deleted_at !== null || locked.epoch !== reply.epoch) return false;
      const updated_at = toTime(Date.now());
      const rated = { rating: feedback?.rating ?? null, rating_comment: feedback?.comment ?? null };
      const count = await trx('messages')
        .where({ id: reply.id })
        .update({ ...rated, updated_at });
      if (count > 0 && reply.reply_to !== null) {
        const marked = { rating: await markOf(trx, reply, reply.reply_to), updated_at };
        await trx('messages').where({ uid: reply.reply_to }).update(marked);
      }
      return count > 0;
    });
  } catch (error) {
    throw toAppError(error);
  }
}

/** The rating of the question: `both` with replies of either. */
async function markOf(
  trx: Knex,
  { conversation_id, epoch }: Reply,
  question: string,
): Promise<string | null> {
  const ratings: string[] = await trx
    .from(trx.raw(`messages ${dialectOf(trx).forceIndex('messages_conversation')}`))
    .where({ conversation_id, epoch, reply_to: question, role: 'assistant' })
    .whereNotNull('rating')
    .distinct()
    .pluck('rating');
  return ratings.length > 1 ? 'both' : (ratings[0] ?? null);
}
