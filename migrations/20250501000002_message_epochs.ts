import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** The epoch of the conversation at the time of the INSERT. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE messages ADD COLUMN epoch INT NOT NULL DEFAULT 0',
    sqlite: ['ALTER TABLE messages ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0'],
  });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE messages DROP COLUMN epoch',
    sqlite: ['ALTER TABLE messages DROP COLUMN epoch'],
  });
}
