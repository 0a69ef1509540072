import type { Knex } from 'knex';
import { v7 } from 'uuid';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { TurnStart, TurnWriter } from '../../src/domain/chat/turns.ts';
import type {
  ConversationRepository,
  Counts,
  Message,
  SequencedMessage,
} from '../../src/domain/conversations/conversation.ts';
import type { PurgeStore } from '../../src/domain/conversations/purge.ts';

export const HOUR = 3_600_000;
/** With milliseconds, and not of today: nothing here may depend on the clock. */
export const NOON = Date.UTC(2024, 2, 21, 12, 0, 0, 123);

export const newId = (): string => v7();

export function userMessage(conversationId: string, over: Partial<Message> = {}): Message {
  return {
    uid: newId(),
    conversationId,
    role: 'user',
    content: 'a question',
    timestamp: NOON,
    status: 'complete',
    replyTo: null,
    model: null,
    finishReason: null,
    usage: null,
    format: null,
    reasoning: null,
    details: null,
    ...over,
  };
}

export function replyTo(question: Message, over: Partial<Message> = {}): Message {
  return {
    ...userMessage(question.conversationId),
    role: 'assistant',
    content: 'an answer',
    timestamp: question.timestamp + 1000,
    replyTo: question.uid,
    model: 'some-model',
    finishReason: 'stop',
    usage: { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 },
    format: 'markdown',
    ...over,
  };
}

export function startOf(message: Message, over: Partial<TurnStart> = {}): TurnStart {
  return {
    conversationId: message.conversationId,
    named: true,
    expiredBefore: message.timestamp - 24 * HOUR,
    by: UNRESTRICTED,
    message,
    ...over,
  };
}

/** Writes a whole turn and returns its question. */
export async function writeTurn(
  writer: TurnWriter,
  question: Message,
  answer?: Partial<Message>,
): Promise<Message> {
  await writer.write({ start: startOf(question) });
  await writer.write({ reply: replyTo(question, answer) });
  return question;
}

/** One batch of a purge without an archive. */
export async function purgeBatch(store: PurgeStore, cutoff: number, limit: number): Promise<Counts> {
  const count = { conversations: 0, messages: 0 };
  const candidates = await store.candidates(cutoff, null, limit);
  if (candidates.length === 0) return count;
  const deletions = await store.hide(
    candidates.map(({ id }) => id),
    cutoff,
  );
  await store.remove(deletions, {
    onSlice(removed) {
      count.conversations += removed.conversations;
      count.messages += removed.messages;
    },
  });
  return count;
}

/** At most `limit` messages, whatever their size. */
export async function messagesOf(
  repository: ConversationRepository,
  id: string,
  afterSeq: number,
  limit: number,
): Promise<readonly SequencedMessage[]> {
  const conversation = await repository.find(id);
  if (!conversation) return [];
  return (
    await repository.messages(conversation, afterSeq, limit, Number.POSITIVE_INFINITY, {
      newestFirst: false,
      superseded: false,
    })
  ).messages;
}

export async function contents(repository: ConversationRepository, id: string): Promise<string[]> {
  return (await messagesOf(repository, id, 0, 1000)).map((message) => message.content);
}

/** A conversation of `count` user messages, last active at {@link NOON}: each statement doubles them. */
export async function fillConversation(knex: Knex, id: string, count: number): Promise<void> {
  const time = '2024-03-21 12:00:00.123';
  await knex('conversations').insert({ id, created_at: time, last_active: time, last_seq: count });
  const message = { role: 'user', content: 'an old message', length: 14, status: 'complete' };
  const first = { conversation_id: id, ...message, timestamp: time, updated_at: time };
  await knex('messages').insert({ ...first, uid: newId(), seq: 1 });
  const columns = Object.keys(first).join(', ');
  // Not newId(), whose first part is the millisecond: two conversations of one would have the same ids.
  const uids = crypto.randomUUID().slice(0, -12);
  for (let made = 1; made < count; made *= 2) {
    await knex.raw(
      `INSERT INTO messages (uid, seq, ${columns}) SELECT CONCAT(?, ${100_000_000_000 + made} + seq), seq + ${made}, ${columns}
       FROM messages WHERE conversation_id = ? AND seq <= ?`,
      [uids, id, count - made],
    );
  }
}

/**
 * Calls `heard` with the SQL of each statement, and on MySQL `failed` with each error, until the returned function is
 * called. Batches go to the connection itself, past Knex.
 */
export function onStatement(
  { client }: Knex,
  heard: (sql: string) => void,
  failed: (error: { code?: string }) => void = () => {},
): () => void {
  let isOver = false;
  const name = client.driverName === 'better-sqlite3' ? 'prepare' : 'query';
  const known = new WeakSet();
  const acquire: () => Promise<object> = client.acquireConnection.bind(client);
  client.acquireConnection = async () => {
    const connection = await acquire();
    if (known.has(connection)) return connection;
    known.add(connection);
    const run = Reflect.get(connection, name).bind(connection);
    const listen = (first: string | { sql: string }, ...rest: unknown[]) => {
      if (!isOver) heard(typeof first === 'string' ? first : first.sql);
      const done = rest.at(-1);
      if (typeof done === 'function') {
        rest[rest.length - 1] = (error: { code?: string } | null, ...results: unknown[]) => {
          if (error && !isOver) failed(error);
          done(error, ...results);
        };
      }
      return run(first, ...rest);
    };
    return Object.assign(connection, { [name]: listen });
  };
  return () => {
    isOver = true;
  };
}
