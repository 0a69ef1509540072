import type { Knex } from 'knex';
import { toDetails } from '../core/codec.ts';
import { withEnd } from '../turns/history-chain.ts';

const PARALLEL = 5;

/**
 * Adds replies that no process will end to the histories of their conversations, so that clients find these. The
 * history stays open: a process that was only frozen still ends it.
 * @throws the driver's error
 */
export async function closeHistories(knex: Knex, uids: readonly string[]): Promise<void> {
  for (let at = 0; at < uids.length; at += PARALLEL)
    await Promise.all(uids.slice(at, at + PARALLEL).map((uid) => closeHistory(knex, uid)));
}

async function closeHistory(knex: Knex, uid: string): Promise<void> {
  const row = await knex('messages as m')
    .join('conversations as c', (on) => on.on('c.id', 'm.conversation_id').on('c.history_reply', 'm.uid'))
    .where('m.uid', uid)
    .first('m.content', 'm.details', 'c.id', 'c.history_hash', 'c.history_open', 'c.history_reply');
  if (!row || row.history_hash !== null || row.history_open === null) return;
  const { id, content, history_open } = row;
  const reply = { uid, role: 'assistant' as const, content, details: toDetails(row.details) };
  const { history_hash } = withEnd(row, reply);
  await knex('conversations')
    .where({ id, history_reply: uid, history_open, history_hash: null })
    .update({ history_hash });
}
