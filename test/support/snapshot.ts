/** Reads the stored rows directly from the database. */
import { join } from 'node:path';
import Sqlite from 'better-sqlite3';
import mysql from 'mysql2/promise';
import { z } from 'zod';

const row = z.object({
  id: z.number(),
  uid: z.string(),
  conversation_id: z.string(),
  role: z.enum(['user', 'assistant']),
  content: z.string(),
  status: z.enum(['complete', 'streaming', 'incomplete', 'cancelled']),
  finish_reason: z.string().nullable(),
  reply_to: z.string().nullable(),
});

export type StoredMessage = z.output<typeof row>;

export interface Snapshot {
  readonly conversations: ReadonlySet<string>;
  /** By ascending id. */
  readonly messages: readonly StoredMessage[];
}

/** The database of a server under test. */
export type StoredIn = { readonly file: string } | { readonly url: string };

/** The database that a server's settings name. The folder is DATA_DIR by default. */
export function storedIn(env: Readonly<Record<string, string>>, folder: string): StoredIn {
  const url = env.DATABASE_URL;
  return url === undefined ? { file: join(folder, 'data', 'chat.sqlite') } : { url };
}

const MESSAGES =
  'SELECT id, uid, conversation_id, role, content, status, finish_reason, reply_to FROM messages ORDER BY id';
const CONVERSATIONS = 'SELECT id FROM conversations';

/** Reads all messages and conversations. @throws when the database is unavailable */
export async function takeSnapshot(place: StoredIn): Promise<Snapshot> {
  const [messages, conversations] = await Promise.all([query(place, MESSAGES), query(place, CONVERSATIONS)]);
  return {
    messages: z.array(row).parse(messages),
    conversations: new Set(
      z
        .array(z.object({ id: z.string() }))
        .parse(conversations)
        .map(({ id }) => id),
    ),
  };
}

/** The rows of one statement, on a new connection, because a fault may have broken older ones. */
export async function query(place: StoredIn, sql: string): Promise<unknown[]> {
  if ('file' in place) {
    const file = new Sqlite(place.file, { fileMustExist: true });
    try {
      return file.prepare(sql).all();
    } finally {
      file.close();
    }
  }
  const connection = await mysql.createConnection({ uri: place.url, connectTimeout: 2000 });
  try {
    const [rows] = await connection.query(sql);
    return z.array(z.unknown()).parse(rows);
  } finally {
    await connection.end();
  }
}
