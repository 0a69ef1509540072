import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/**
 * Finds the conversation that a history continues. `history_hash` is that of its visible messages; null: not known, or a
 * reply is being generated, and then `history_open` is the hash up to its question. `history_reply` is the uid of the
 * newest turn's reply. Conversations of earlier versions have none.
 */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE conversations
      ADD COLUMN history_hash CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
      ADD COLUMN history_open CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
      ADD COLUMN history_reply CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
      ADD KEY conversations_history (history_hash)`,
    sqlite: [
      ...COLUMNS.map((column) => `ALTER TABLE conversations ADD COLUMN ${column} TEXT NULL`),
      'CREATE INDEX conversations_history ON conversations (history_hash) WHERE history_hash IS NOT NULL',
    ],
  });
}

const COLUMNS = ['history_hash', 'history_open', 'history_reply'];

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE conversations DROP KEY conversations_history,
      ${COLUMNS.map((column) => `DROP COLUMN ${column}`).join(', ')}`,
    sqlite: [
      'DROP INDEX conversations_history',
      ...COLUMNS.map((column) => `ALTER TABLE conversations DROP COLUMN ${column}`),
    ],
  });
}
