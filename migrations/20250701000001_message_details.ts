import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

const COLUMNS = ['reasoning', 'reasoning_length', 'details', 'rating', 'rating_comment'];

/** What a message has beside its text. `reasoning_length` counts UTF-16 units, as `length` does. `details` is JSON: images of a question, tool calls of a reply and such. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE messages
      ADD COLUMN reasoning MEDIUMTEXT NULL,
      ADD COLUMN reasoning_length INT NULL,
      ADD COLUMN details LONGTEXT NULL,
      ADD COLUMN rating VARCHAR(4) CHARACTER SET ascii COLLATE ascii_bin NULL,
      ADD COLUMN rating_comment TEXT NULL`,
    sqlite: COLUMNS.map((column) => {
      const type = column === 'reasoning_length' ? 'INTEGER' : 'TEXT';
      return `ALTER TABLE messages ADD COLUMN ${column} ${type} NULL`;
    }),
  });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE messages ${COLUMNS.map((column) => `DROP COLUMN ${column}`).join(', ')}`,
    sqlite: COLUMNS.map((column) => `ALTER TABLE messages DROP COLUMN ${column}`),
  });
}
