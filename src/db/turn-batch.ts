import type { Knex } from 'knex';
import type { Message } from '../domain/conversation.ts';
import type { TurnWrite, WriteOutcome } from '../domain/ports.ts';
import { fromMessage, MESSAGE_INSERT_COLUMNS, toTime } from './codec.ts';
import { type Dialect, placeholders } from './dialect.ts';
import type { MessageRow } from './tables.ts';

/**
 * Writes the units inside a transaction, whose first statements these must be, with at most one statement of each
 * kind for all of them. The statements are plain SQL: on this path Knex's builder would cost more than all the rest.
 * Conversations are locked and written in the order of their ids, so that processes do not deadlock; messages are
 * written in the order of the units, because that order is the conversation's.
 */
export async function writeBatch(
  trx: Knex,
  dialect: Dialect,
  units: readonly TurnWrite[],
): Promise<WriteOutcome[]> {
  const alive = await lockAndExpire(trx, dialect, units);
  const answered = await answeredMessages(trx, dialect, units, alive);
  const activity = new Map<string, Activity>();
  const rows: (string | null)[] = [];
  const add = (message: Message): void => {
    const time = toTime(message.timestamp);
    touch(activity, message.conversationId, time);
    rows.push(...fromMessage(message, time));
  };
  const outcomes = units.map(({ start, reply }): WriteOutcome => {
    if (start) {
      add(start.message);
      answered.set(start.message.uid, start.conversationId);
    }
    if (!reply) return 'saved';
    if (reply.replyTo === null || answered.get(reply.replyTo) !== reply.conversationId) return 'gone';
    add(reply);
    return 'saved';
  });
  await saveConversations(trx, dialect, activity);
  await saveMessages(trx, dialect, rows);
  return outcomes;
}

/**
 * Locks what is there of the conversations that callers named or that replies belong to, and deletes the expired ones
 * that are started anew. Returns the ids that are left; these stay until the transaction ends.
 */
async function lockAndExpire(
  trx: Knex,
  dialect: Dialect,
  units: readonly TurnWrite[],
): Promise<ReadonlySet<string>> {
  const cutoffs = new Map<string, string>();
  const ids = new Set<string>();
  for (const { start, reply } of units) {
    if (start?.named) {
      ids.add(start.conversationId);
      cutoffs.set(start.conversationId, toTime(start.expiredBefore));
    } else if (!start && reply) ids.add(reply.conversationId);
  }
  if (ids.size === 0) return ids;
  const locked = await dialect.lockConversations(trx, [...ids].sort());
  const alive = new Set(locked.map(({ id }) => id));
  const expired = locked.flatMap(({ id, last_active }) => {
    const cutoff = cutoffs.get(id);
    return cutoff !== undefined && last_active < cutoff ? [[id, cutoff] as const] : [];
  });
  if (expired.length > 0) {
    const each = expired.map(() => '(id = ? AND last_active < ?)').join(' OR ');
    await trx.raw(`DELETE FROM conversations WHERE ${each}`, expired.flat());
  }
  for (const [id] of expired) alive.delete(id);
  return alive;
}

/** The stored messages that replies answer: uid → conversation. Those of other units of the batch are not in it. */
async function answeredMessages(
  trx: Knex,
  dialect: Dialect,
  units: readonly TurnWrite[],
  alive: ReadonlySet<string>,
): Promise<Map<string, string>> {
  const uids = units.flatMap(({ start, reply }) =>
    !start && reply?.replyTo && alive.has(reply.conversationId) ? [reply.replyTo] : [],
  );
  if (uids.length === 0) return new Map();
  const found = await dialect.select<AnsweredRow>(
    trx,
    `SELECT uid, conversation_id FROM messages WHERE uid IN (${placeholders(uids.length)})`,
    uids,
  );
  return new Map(found.map((row) => [row.uid, row.conversation_id]));
}

type AnsweredRow = Pick<MessageRow, 'uid' | 'conversation_id'>;

interface Activity {
  readonly created: string;
  last: string;
}

function touch(activity: Map<string, Activity>, conversationId: string, time: string): void {
  const known = activity.get(conversationId);
  if (!known) activity.set(conversationId, { created: time, last: time });
  else if (known.last < time) known.last = time;
}

/** Those that are there are only moved forward; those of replies are there, because they are locked. */
async function saveConversations(
  trx: Knex,
  dialect: Dialect,
  activity: Map<string, Activity>,
): Promise<void> {
  if (activity.size === 0) return;
  const values = [...activity]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([id, { created, last }]) => [id, created, last]);
  await trx.raw(
    `INSERT INTO conversations (id, created_at, last_active)
     VALUES ${repeated(CONVERSATION_TUPLE, activity.size)} ${dialect.onKnownConversation}`,
    values,
  );
}

const CONVERSATION_TUPLE = `(${placeholders(3)})`;
const MESSAGE_COLUMN_COUNT = MESSAGE_INSERT_COLUMNS.split(',').length;
const MESSAGE_TUPLE = `(${placeholders(MESSAGE_COLUMN_COUNT)})`;

async function saveMessages(trx: Knex, dialect: Dialect, rows: (string | null)[]): Promise<void> {
  if (rows.length === 0) return;
  const values = repeated(MESSAGE_TUPLE, rows.length / MESSAGE_COLUMN_COUNT);
  await trx.raw(
    `INSERT INTO messages (${MESSAGE_INSERT_COLUMNS}) VALUES ${values} ${dialect.onKnownMessage}`,
    rows,
  );
}

function repeated(tuple: string, count: number): string {
  return `${tuple}, `.repeat(count - 1) + tuple;
}
