import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { Feedback } from '../../domain/conversations/conversation.ts';
import { toTime } from '../core/codec.ts';
import { dialectOf } from '../core/dialect.ts';
import { asAppErrors, select, transaction } from '../core/errors.ts';
import { endOf, FIRST, slicesBetween } from '../core/order.ts';
import type { ConversationRow, MessageRow } from '../core/tables.ts';

/** Messages that one statement reads; on SQLite it blocks the event loop. */
const SLICE = 2000;

type Reply = Pick<MessageRow, 'id' | 'conversation_id' | 'epoch' | 'reply_to'>;

/**
 * Sets or removes the feedback of a reply. Its question is marked with the ratings of all its replies, so that exports
 * find both by one column.
 * @returns false when the reply is gone
 */
export function saveFeedback(knex: Knex, uid: string, feedback: Feedback | null): Promise<boolean> {
  return asAppErrors(async () => {
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
        const marked = { rating: await markOf(trx, reply.reply_to, locked), updated_at };
        await trx('messages').where({ uid: reply.reply_to }).update(marked);
      }
      return count > 0;
    });
  });
}

/** The rating of the question: `both` with replies of either. */
async function markOf(
  trx: Knex,
  question: string,
  conversation: Pick<ConversationRow, 'id' | 'epoch' | 'last_seq'>,
): Promise<string | null> {
  const dialect = dialectOf(trx);
  const ratings = new Set<string>();
  for (const { sql, bindings } of slicesBetween(FIRST, endOf(conversation), SLICE)) {
    const rows = await dialect.select<{ rating: string }>(
      trx,
      `SELECT DISTINCT rating FROM messages ${dialect.forceIndex('messages_conversation')}
       WHERE conversation_id = ? AND epoch = ? ${sql} AND reply_to = ? AND role = 'assistant' AND rating IS NOT NULL`,
      [conversation.id, conversation.epoch, ...bindings, question],
    );
    for (const { rating } of rows) ratings.add(rating);
    await nextTurn();
  }
  const [rating = null] = ratings;
  return ratings.size > 1 ? 'both' : rating;
}
