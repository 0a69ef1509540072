/** A copy of all conversations, kept up to date by incremental exports. */
import assert from 'node:assert/strict';
import { z } from 'zod';
import type { Database } from '../../src/db/database.ts';

/** A message of an export, without rare members. */
const message = z.object({
  id: z.string(),
  role: z.string(),
  content: z.string(),
  timestamp: z.string(),
  status: z.string(),
});

const line = z.union([
  z.strictObject({ conversation_id: z.string(), deleted: z.literal(true), deleted_at: z.iso.datetime() }),
  z.strictObject({
    conversation_id: z.string(),
    created_at: z.iso.datetime(),
    last_active: z.iso.datetime(),
    expires_at: z.iso.datetime().nullable(),
    messages: z.array(message),
  }),
]);

type Message = z.output<typeof message>;

/** Messages by conversation, each in the order of their ids. */
export type Copy = Record<string, Message[]>;

export class Replica {
  readonly #conversations = new Map<string, Map<string, Message>>();

  /** @returns how many conversations, messages and deletions the lines had */
  apply(ndjson: string): { conversations: number; messages: number; deleted: number } {
    const counts = { conversations: 0, messages: 0, deleted: 0 };
    for (const text of ndjson.split('\n').slice(0, -1)) {
      const one = line.parse(JSON.parse(text));
      if ('deleted' in one) {
        assert.equal(counts.conversations, 0, 'a deletion comes after a conversation');
        this.#conversations.delete(one.conversation_id);
        counts.deleted += 1;
        continue;
      }
      const known = this.#conversations.get(one.conversation_id) ?? new Map<string, Message>();
      for (const each of one.messages) known.set(each.id, each);
      this.#conversations.set(one.conversation_id, known);
      counts.conversations += 1;
      counts.messages += one.messages.length;
    }
    return counts;
  }

  copy(): Copy {
    return sorted([...this.#conversations].map(([id, messages]) => [id, [...messages.values()]]));
  }
}

/** The expected copy: all visible messages of the database. */
export async function original({ knex }: Database): Promise<Copy> {
  const rows = await knex('messages')
    .join('conversations', 'conversations.id', 'conversation_id')
    .where('messages.epoch', knex.ref('conversations.epoch'))
    .whereNull('conversations.deleted_at')
    .select('uid', 'conversation_id', 'role', 'content', 'timestamp', 'status')
    .whereRaw(`NOT (status = 'streaming' AND LENGTH(content) = 0)`);
  const shown = rows.map(({ uid, conversation_id, timestamp, ...rest }) => ({
    conversation_id,
    message: { id: uid, ...rest, timestamp: `${timestamp.replace(' ', 'T')}Z` },
  }));
  const groups = Map.groupBy(shown, (row) => row.conversation_id);
  return sorted([...groups].map(([id, all]) => [id, all.map((row) => row.message)]));
}

function sorted(entries: [string, Message[]][]): Copy {
  const byId = (a: Message, b: Message) => (a.id < b.id ? -1 : 1);
  return Object.fromEntries(entries.map(([id, messages]) => [id, messages.sort(byId)]));
}
