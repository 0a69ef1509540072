/**
 * The order of the messages of a conversation. A message gets the next `seq` of its conversation under the lock of the
 * conversation. Messages of earlier versions have `seq` 0: they come first, by `id`. A position is one number for both,
 * so that positions compare like the messages.
 */
import { placeholders } from './dialect.ts';
import type { ConversationRow, MessageRow } from './tables.ts';

/** Positions from here on have a `seq`; lower ones are an `id`. */
const NUMBERED = 2 ** 52;

/** Before the first message, and after the last one. */
export const FIRST = 0;
export const LAST = Number.MAX_SAFE_INTEGER;

/** With more distinct epochs a statement reads the messages of every epoch. */
const MAX_EPOCHS = 4;

export interface Condition {
  readonly sql: string;
  readonly bindings: readonly (string | number)[];
}

/** Messages of one conversation and epoch that one range of the index has. */
export interface MessageRange extends Condition {
  /** The last position in it. */
  readonly until: number;
}

export function positionOf({ id, seq }: Pick<MessageRow, 'id' | 'seq'>): number {
  return seq > 0 ? NUMBERED + seq : id;
}

/** The position of the last message that the conversation has numbered. */
export function endOf({ last_seq }: Pick<ConversationRow, 'last_seq'>): number {
  return NUMBERED + last_seq;
}

/**
 * The first of the ranges that have the messages after one position up to another one; the next one begins at its
 * `until`. There are two where they begin among the messages without `seq` and end among the others: SQLite would look
 * at all messages without `seq` for both together.
 * @param table name or alias of the messages
 */
export function firstRange(after: number, until = LAST, table = 'messages'): MessageRange {
  const [seq, id] = [`AND ${table}.seq`, `AND ${table}.id`];
  if (until < NUMBERED) {
    return { sql: `${seq} = 0 ${id} > ? ${id} <= ?`, bindings: [after, until], until };
  }
  if (after > FIRST && after < NUMBERED) {
    return { sql: `${seq} = 0 ${id} > ?`, bindings: [after], until: NUMBERED };
  }
  const end = until < LAST ? { sql: `${seq} <= ?`, bindings: [until - NUMBERED] } : { sql: '', bindings: [] };
  if (after === FIRST) return { ...end, until };
  return { sql: `${seq} > ? ${end.sql}`, bindings: [after - NUMBERED, ...end.bindings], until };
}

/** All ranges, in order. */
export function rangesBetween(after: number, until: number): MessageRange[] {
  const ranges: MessageRange[] = [];
  for (let at = after; at < until; at = ranges.at(-1)?.until ?? until) ranges.push(firstRange(at, until));
  return ranges;
}

/** As {@link rangesBetween}, each with at most `size` messages. Those without `seq` are one range. */
export function slicesBetween(after: number, until: number, size: number): MessageRange[] {
  const numbered = Math.max(after, NUMBERED);
  const slices = rangesBetween(after, Math.min(numbered, until));
  for (let at = numbered; at < until; at += size) slices.push(firstRange(at, Math.min(at + size, until)));
  return slices;
}

/** Reads at most `limit` messages in order, range by range. */
export async function readBetween<Row>(
  after: number,
  until: number,
  limit: number,
  read: (range: MessageRange, limit: number) => Promise<readonly Row[]>,
): Promise<Row[]> {
  const rows: Row[] = [];
  for (let at = after; at < until && rows.length < limit; ) {
    const range = firstRange(at, until);
    rows.push(...(await read(range, limit - rows.length)));
    at = range.until;
  }
  return rows;
}

/** All columns of the index: with fewer, MySQL sorts when the conversation comes from another table. */
export function messageOrder(direction: 'ASC' | 'DESC' = 'ASC', table = 'messages'): string {
  const columns = ['conversation_id', 'epoch', 'seq', 'id'];
  return `ORDER BY ${columns.map((column) => `${table}.${column} ${direction}`).join(', ')}`;
}

/** The messages of these conversations. Where the epochs are many, those of other epochs are among them. */
export function messagesOf(conversations: readonly Pick<ConversationRow, 'id' | 'epoch'>[]): Condition {
  const ids = conversations.map(({ id }) => id);
  const epochs = [...new Set(conversations.map(({ epoch }) => epoch))];
  const inIds = `messages.conversation_id IN (${placeholders(ids.length)})`;
  if (epochs.length > MAX_EPOCHS) return { sql: inIds, bindings: ids };
  return {
    sql: `${inIds} AND messages.epoch IN (${placeholders(epochs.length)})`,
    bindings: [...ids, ...epochs],
  };
}
