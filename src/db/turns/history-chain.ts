/** The hash of the visible messages of a conversation, kept by the transactions that change them. */
import type { Message } from '../../domain/conversations/conversation.ts';
import { historyStart, storedForm } from '../../domain/conversations/history.ts';
import { chained, hashOf } from '../../util/hash-chain.ts';
import type { HistoryColumns } from '../core/tables.ts';

/** Another order, or another change, than the chain can follow: the conversation is found by its id alone. */
export const UNKNOWN_HISTORY: HistoryColumns = {
  history_hash: null,
  history_open: null,
  history_reply: null,
};

type ComparedMessage = Pick<Message, 'uid' | 'role' | 'content' | 'details'>;

/** Of a conversation without messages. */
export function newHistory(owner: string | null, user: string | null, system: string | null): HistoryColumns {
  return { ...UNKNOWN_HISTORY, history_hash: hashOf(historyStart(owner, user, system)) };
}

/**
 * A reply begins to the new messages, or to the last stored one where there are none. Two replies at the same time have
 * no order. Repeating the write of a turn changes nothing.
 */
export function withStart(
  history: HistoryColumns,
  messages: readonly Message[],
  replyUid: string | null,
): HistoryColumns {
  if (replyUid !== null && history.history_reply === replyUid) return history;
  if (history.history_hash === null) return UNKNOWN_HISTORY;
  const open = messages.reduce(withMessage, history.history_hash);
  return replyUid === null
    ? { ...UNKNOWN_HISTORY, history_hash: open }
    : { history_hash: null, history_open: open, history_reply: replyUid };
}

/** The reply has ended with this text, or failed without any. */
export function withEnd(history: HistoryColumns, reply: ComparedMessage): HistoryColumns {
  const { history_open: open, history_reply: newest } = history;
  if (newest !== reply.uid) return UNKNOWN_HISTORY;
  return open === null
    ? history
    : { history_hash: withMessage(open, reply), history_open: null, history_reply: newest };
}

function withMessage(hash: string, message: Omit<ComparedMessage, 'uid'>): string {
  const form = storedForm(message);
  return form === undefined ? hash : chained(hash, form);
}
