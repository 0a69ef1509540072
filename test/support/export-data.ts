/** Inserts many conversations directly into the database, for tests of exports. */
import type { Knex } from 'knex';
import { v7 } from 'uuid';
import { dialectOf } from '../../src/db/core/dialect.ts';
import type { Database } from '../../src/db/database.ts';

export interface StoredMessage {
  readonly uid: string;
  readonly role: string;
  readonly content: string;
  readonly timestamp: string;
  readonly status: string;
}

export interface StoredConversation {
  readonly id: string;
  readonly created_at: string;
  readonly last_active: string;
  readonly messages: readonly StoredMessage[];
}

export const stored = (at: number): string => new Date(at).toISOString().replace('T', ' ').slice(0, 23);
export const shown = (time: string): string => `${time.replace(' ', 'T')}Z`;

/** @param contents of its messages: questions and answers in turn */
export function storedConversation(
  at: number,
  contents: readonly string[],
  over: Partial<StoredConversation & { status: string }> = {},
): StoredConversation {
  const { status = 'complete', ...rest } = over;
  return {
    id: crypto.randomUUID(),
    created_at: stored(at),
    last_active: stored(at + 60_000),
    messages: contents.map((content, index) => ({
      uid: v7(),
      role: index % 2 === 0 ? 'user' : 'assistant',
      content,
      timestamp: stored(at + index),
      status: index % 2 === 0 ? 'complete' : status,
    })),
    ...rest,
  };
}

/** Inserts the messages in rounds, so that those of different conversations are interleaved, as in real use. */
export async function store({ knex }: Database, conversations: readonly StoredConversation[]): Promise<void> {
  const heads = conversations.map(({ id, created_at, last_active, messages }) => {
    return { id, created_at, last_active, last_seq: messages.length };
  });
  await insertRows(knex, 'conversations', heads);
  const rows: Record<string, string | number>[] = [];
  let left = conversations;
  for (let index = 0; left.length > 0; index += 1) {
    left = left.filter(({ messages }) => index < messages.length);
    for (const { id, messages } of left) {
      const message = messages[index];
      if (!message) continue;
      rows.push({ ...message, conversation_id: id, seq: index + 1, updated_at: message.timestamp });
    }
  }
  await insertRows(knex, 'messages', rows);
}

/** Inserts without Knex, which takes ten times as long. All rows must have the columns of the first one. */
export async function insertRows(
  knex: Knex,
  table: string,
  rows: readonly Readonly<Record<string, string | number>>[],
): Promise<void> {
  const columns = Object.keys(rows[0] ?? {});
  const head = `INSERT INTO ${table} (${columns.join(', ')}) VALUES`;
  const values = rows.map((row) => columns.map((column) => row[column]));
  const { client } = knex;
  const { pooled } = dialectOf(knex);
  const connection = await client.acquireConnection();
  try {
    if (pooled) {
      for (let at = 0; at < values.length; at += 1000)
        await connection.promise().query(`${head} ?`, [values.slice(at, at + 1000)]);
    } else {
      const statement = connection.prepare(`${head} (${columns.map(() => '?').join(', ')})`);
      connection.transaction(() => {
        for (const row of values) statement.run(row);
      })();
    }
  } finally {
    await client.releaseConnection(connection);
  }
}

/** In the order of an export. */
export function inOrder(conversations: readonly StoredConversation[]): StoredConversation[] {
  const key = ({ created_at, id }: StoredConversation) => `${created_at} ${id}`;
  return [...conversations].sort((a, b) => (key(a) < key(b) ? -1 : 1));
}

/** The rows of a CSV as an export should have them. */
export function csvRows(conversations: readonly StoredConversation[]): string[][] {
  return inOrder(conversations).flatMap(({ id, created_at, last_active, messages }) => {
    const head = [id, shown(created_at), shown(last_active)];
    if (messages.length === 0) return [[...head, '', '', '', '', '']];
    return messages.map(({ uid, role, content, timestamp, status }) => [
      ...head,
      uid,
      role,
      content,
      shown(timestamp),
      status,
    ]);
  });
}
