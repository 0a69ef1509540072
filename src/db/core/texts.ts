/** The columns of messages that can be long. */
import type { Knex } from 'knex';
import { placeholders } from './dialect.ts';
import { select } from './errors.ts';
import type { MessageRow } from './tables.ts';

export const TEXT_COLUMNS = ['content', 'reasoning', 'details'] as const;

/** Their bytes together. */
export const TEXT_BYTES =
  'OCTET_LENGTH(content) + COALESCE(OCTET_LENGTH(reasoning), 0) + COALESCE(OCTET_LENGTH(details), 0)';

/** One of them; null when they have more bytes together, or the row does not fulfil the condition. */
export function shortText(column: string, maxBytes: number, condition = ''): string {
  return `CASE WHEN ${condition} ${TEXT_BYTES} <= ${maxBytes} THEN ${column} END AS ${column}`;
}

type Texts = Pick<MessageRow, 'id' | (typeof TEXT_COLUMNS)[number]>;

/** The texts of these messages, by `id`. Messages that were deleted meanwhile are left out. */
export async function readTexts(knex: Knex, ids: readonly number[]): Promise<Map<number, Texts>> {
  if (ids.length === 0) return new Map();
  const rows = await select<Texts>(
    knex,
    `SELECT id, ${TEXT_COLUMNS.join(', ')} FROM messages WHERE id IN (${placeholders(ids.length)})`,
    ids,
  );
  return new Map(rows.map((row) => [row.id, row]));
}
