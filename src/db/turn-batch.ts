import type { Knex } from 'knex';
import type { Message } from '../domain/conversation.ts';
import type { TurnWrite, WriteOutcome } from '../domain/ports.ts';
import { fromMessage, MESSAGE_INSERT_COLUMNS, toTime } from './codec.ts';
import { type Dialect, type LockedConversation, placeholders, type Statement } from './dialect.ts';
import type { MessageRow } from './tables.ts';

/**
 * Writes the units in one transaction, with at most one statement of each kind for all of them. The statements are
 * plain SQL: on this path Knex's builder would cost more than all the rest.
 * Conversations are locked and written in the order of their ids, so that processes do not deadlock; messages are
 * written in the order of the units, because that order is the conversation's.
 * @throws the driver's error
 */
export function writeBatch(
  knex: Knex,
  dialect: Dialect,
  units: readonly TurnWrite[],
): Promise<WriteOutcome[]> {
  const concerned = concernedConversations(units);
  const answered = units.flatMap(({ start, reply }) => (!start && reply?.replyTo ? [reply.replyTo] : []));
  const reads: Statement[] = [];
  if (concerned.length > 0) reads.push({ sql: dialect.lockSql(concerned.length), bindings: concerned });
  if (answered.length > 0) {
    const sql = `SELECT uid, conversation_id FROM messages WHERE uid IN (${placeholders(answered.length)})`;
    reads.push({ sql, bindings: answered });
  }
  return dialect.batch(knex, reads, ([locked = [], found = []]) =>
    planWrites(dialect, units, locked as LockedConversation[], found as AnsweredRow[]),
  );
}

type AnsweredRow = Pick<MessageRow, 'uid' | 'conversation_id'>;

/** Those that callers named or that replies belong to, in the order in which they are locked. */
function concernedConversations(units: readonly TurnWrite[]): string[] {
  const ids = new Set<string>();
  for (const { start, reply } of units) {
    if (start?.named) ids.add(start.conversationId);
    else if (!start && reply) ids.add(reply.conversationId);
  }
  return [...ids].sort();
}

/**
 * @param locked what is there of the concerned conversations; it stays until the transaction ends
 * @param found the stored messages that replies answer; those of other units of the batch are not in it
 */
function planWrites(
  dialect: Dialect,
  units: readonly TurnWrite[],
  locked: readonly LockedConversation[],
  found: readonly AnsweredRow[],
): { writes: Statement[]; result: WriteOutcome[] } {
  const expired = expiredConversations(units, locked);
  const answered = new Map<string, string>();
  for (const { uid, conversation_id } of found) {
    if (!expired.has(conversation_id)) answered.set(uid, conversation_id);
  }
  const activity = new Map<string, Activity>();
  const rows: (string | null)[] = [];
  const add = (message: Message): void => {
    const time = toTime(message.timestamp);
    touch(activity, message.conversationId, time);
    rows.push(...fromMessage(message, time));
  };
  const result = units.map(({ start, reply }): WriteOutcome => {
    if (start) {
      add(start.message);
      answered.set(start.message.uid, start.conversationId);
    }
    if (!reply) return 'saved';
    if (reply.replyTo === null || answered.get(reply.replyTo) !== reply.conversationId) return 'gone';
    add(reply);
    return 'saved';
  });
  const writes = [
    ...deleteExpired(expired),
    ...saveConversations(dialect, activity),
    ...saveMessages(dialect, rows),
  ];
  return { writes, result };
}

/** Those that are started anew after their time: id → the time before which their last activity was. */
function expiredConversations(
  units: readonly TurnWrite[],
  locked: readonly LockedConversation[],
): Map<string, string> {
  const cutoffs = new Map<string, string>();
  for (const { start } of units) {
    if (start?.named) cutoffs.set(start.conversationId, toTime(start.expiredBefore));
  }
  const expired = new Map<string, string>();
  for (const { id, last_active } of locked) {
    const cutoff = cutoffs.get(id);
    if (cutoff !== undefined && last_active < cutoff) expired.set(id, cutoff);
  }
  return expired;
}

function deleteExpired(expired: ReadonlyMap<string, string>): Statement[] {
  if (expired.size === 0) return [];
  const each = [...expired].map(() => '(id = ? AND last_active < ?)').join(' OR ');
  return [{ sql: `DELETE FROM conversations WHERE ${each}`, bindings: [...expired].flat() }];
}

interface Activity {
  readonly created: string;
  last: string;
}

function touch(activity: Map<string, Activity>, conversationId: string, time: string): void {
  const known = activity.get(conversationId);
  if (!known) activity.set(conversationId, { created: time, last: time });
  else if (known.last < time) known.last = time;
}

const CONVERSATION_TUPLE = `(${placeholders(3)})`;
const MESSAGE_COLUMN_COUNT = MESSAGE_INSERT_COLUMNS.split(',').length;
const MESSAGE_TUPLE = `(${placeholders(MESSAGE_COLUMN_COUNT)})`;

/** Those that are there are only moved forward; those of replies are there, because they are locked. */
function saveConversations(dialect: Dialect, activity: ReadonlyMap<string, Activity>): Statement[] {
  if (activity.size === 0) return [];
  const bindings = [...activity]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([id, { created, last }]) => [id, created, last]);
  const sql = `INSERT INTO conversations (id, created_at, last_active)
     VALUES ${repeated(CONVERSATION_TUPLE, activity.size)} ${dialect.onKnownConversation}`;
  return [{ sql, bindings }];
}

function saveMessages(dialect: Dialect, rows: (string | null)[]): Statement[] {
  if (rows.length === 0) return [];
  const values = repeated(MESSAGE_TUPLE, rows.length / MESSAGE_COLUMN_COUNT);
  const sql = `INSERT INTO messages (${MESSAGE_INSERT_COLUMNS}) VALUES ${values} ${dialect.onKnownMessage}`;
  return [{ sql, bindings: rows }];
}

function repeated(tuple: string, count: number): string {
  return `${tuple}, `.repeat(count - 1) + tuple;
}
