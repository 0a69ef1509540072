/**
 * A hash of the visible messages of a conversation, by which clients find it. Each transaction that changes messages
 * updates it.
 */
import type { Message } from '../../domain/conversations/conversation.ts';
import { historyStart, storedForm } from '../../domain/conversations/history.ts';
import { chained, hashOf } from '../../util/hash-chain.ts';
import type { HistoryColumns } from '../core/tables.ts';

/** After a change that the hash cannot follow. The conversation can then be found by its id only. */
export const UNKNOWN_HISTORY: HistoryColumns = {
  history_hash: null,
  history_open: null,
  history_reply: null,
};

type ComparedMessage = Pick<Message, 'uid' | 'role' | 'content' | 'details'>;

/** The hash of a conversation without messages. */
export function newHistory(owner: string | null, user: string | null, system: string | null): HistoryColumns {
  return { ...UNKNOWN_HISTORY, history_hash: hashOf(historyStart(owner, user, system)) };
}

/**
 * Adds new messages and the start of their reply. Without new messages the reply answers the last stored one. While a
 * reply runs, the start of another one makes the hash unknown, because the order of their ends is unknown. Repeating
 * the write of a turn changes nothing.
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

/** Adds a reply that has ended, with text or without. */
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
