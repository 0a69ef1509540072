import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** Exports of one owner read conversations in the order of `created_at`. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'CREATE INDEX conversations_owner_created_at ON conversations (owner, created_at)',
    sqlite: ['CREATE INDEX conversations_owner_created_at ON conversations (owner, created_at)'],
  });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'DROP INDEX conversations_owner_created_at ON conversations',
    sqlite: ['DROP INDEX conversations_owner_created_at'],
  });
}
