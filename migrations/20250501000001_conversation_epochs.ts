import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/**
 * A message is visible when its epoch is that of its conversation and the conversation has no `deleted_at`. Deleting a
 * conversation increments its epoch; its messages are removed later, in slices.
 */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE conversations
      ADD COLUMN epoch INT NOT NULL DEFAULT 0,
      ADD COLUMN deleted_at DATETIME(3) NULL`,
    sqlite: [
      'ALTER TABLE conversations ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0',
      'ALTER TABLE conversations ADD COLUMN deleted_at TEXT NULL',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE conversations DROP COLUMN epoch, DROP COLUMN deleted_at',
    sqlite: [
      'ALTER TABLE conversations DROP COLUMN epoch',
      'ALTER TABLE conversations DROP COLUMN deleted_at',
    ],
  });
}
