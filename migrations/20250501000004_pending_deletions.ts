import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** `pending`: 1 until the messages of the deleted conversation are removed. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE deletions
      ADD COLUMN pending TINYINT NOT NULL DEFAULT 0,
      ADD KEY deletions_pending (pending)`,
    sqlite: [
      'ALTER TABLE deletions ADD COLUMN pending INTEGER NOT NULL DEFAULT 0',
      'CREATE INDEX deletions_pending ON deletions (pending) WHERE pending = 1',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE deletions DROP KEY deletions_pending, DROP COLUMN pending',
    sqlite: ['DROP INDEX deletions_pending', 'ALTER TABLE deletions DROP COLUMN pending'],
  });
}
