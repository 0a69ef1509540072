import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** The greatest `seq` that the conversation has given to a message. It never decreases. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE conversations ADD COLUMN last_seq BIGINT NOT NULL DEFAULT 0',
    sqlite: ['ALTER TABLE conversations ADD COLUMN last_seq INTEGER NOT NULL DEFAULT 0'],
  });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE conversations DROP COLUMN last_seq',
    sqlite: ['ALTER TABLE conversations DROP COLUMN last_seq'],
  });
}
