import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

const TEXTS = ['title', 'user_id', 'metadata', 'system_prompt', 'default_model', 'parameters'];

/**
 * `metadata` and `parameters` are JSON. No name is one of a column of `messages`, so that joins of earlier versions stay
 * unambiguous. The indexes have columns that turns never change, so that no turn pays for them.
 */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE conversations
      ADD COLUMN pinned TINYINT NOT NULL DEFAULT 0,
      ADD COLUMN title VARCHAR(200) NULL,
      ADD COLUMN user_id VARCHAR(128) NULL,
      ADD COLUMN metadata TEXT NULL,
      ADD COLUMN system_prompt MEDIUMTEXT NULL,
      ADD COLUMN default_model VARCHAR(255) NULL,
      ADD COLUMN parameters MEDIUMTEXT NULL,
      ADD KEY conversations_user (user_id),
      ADD KEY conversations_pinned (pinned)`,
    sqlite: [
      'ALTER TABLE conversations ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0',
      ...TEXTS.map((column) => `ALTER TABLE conversations ADD COLUMN ${column} TEXT NULL`),
      'CREATE INDEX conversations_user ON conversations (user_id) WHERE user_id IS NOT NULL',
      'CREATE INDEX conversations_pinned ON conversations (pinned) WHERE pinned = 1',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  const columns = ['pinned', ...TEXTS];
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE conversations DROP KEY conversations_user, DROP KEY conversations_pinned,
      ${columns.map((column) => `DROP COLUMN ${column}`).join(', ')}`,
    sqlite: [
      'DROP INDEX conversations_user',
      'DROP INDEX conversations_pinned',
      ...columns.map((column) => `ALTER TABLE conversations DROP COLUMN ${column}`),
    ],
  });
}
