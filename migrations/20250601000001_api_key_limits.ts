import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** Requests a minute and open streams of one key; NULL: the limits of the server, 0: none. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE api_keys ADD COLUMN request_limit INT NULL, ADD COLUMN stream_limit INT NULL',
    sqlite: [
      'ALTER TABLE api_keys ADD COLUMN request_limit INTEGER NULL',
      'ALTER TABLE api_keys ADD COLUMN stream_limit INTEGER NULL',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: 'ALTER TABLE api_keys DROP COLUMN request_limit, DROP COLUMN stream_limit',
    sqlite: [
      'ALTER TABLE api_keys DROP COLUMN request_limit',
      'ALTER TABLE api_keys DROP COLUMN stream_limit',
    ],
  });
}
