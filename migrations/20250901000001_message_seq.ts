import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** The number of a message in its conversation, from 1. Messages of earlier versions have 0 and come first, by `id`. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE messages ADD COLUMN seq BIGINT NOT NULL DEFAULT 0',
    sqlite: ['ALTER TABLE messages ADD COLUMN seq INTEGER NOT NULL DEFAULT 0'],
  });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE messages DROP COLUMN seq',
    sqlite: ['ALTER TABLE messages DROP COLUMN seq'],
  });
}
