import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

const FORMATS = `CHECK (format IN ('markdown', 'text'))`;

/**
 * Columns of running replies. `length` counts UTF-16 units; `worker` is the process that writes the reply, null after
 * its end; `format` is the text that the offsets of its stream count.
 */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE messages
      ADD COLUMN length INT UNSIGNED NULL,
      ADD COLUMN worker CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
      ADD COLUMN format VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NULL,
      ADD KEY messages_worker (worker),
      ADD CONSTRAINT messages_format ${FORMATS}`,
    sqlite: [
      'ALTER TABLE messages ADD COLUMN length INTEGER NULL',
      'ALTER TABLE messages ADD COLUMN worker TEXT NULL',
      `ALTER TABLE messages ADD COLUMN format TEXT NULL CONSTRAINT messages_format ${FORMATS}`,
      'CREATE INDEX messages_worker ON messages (worker) WHERE worker IS NOT NULL',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `ALTER TABLE messages DROP CONSTRAINT messages_format, DROP KEY messages_worker,
      DROP COLUMN length, DROP COLUMN worker, DROP COLUMN format`,
    sqlite: [
      'DROP INDEX messages_worker',
      'ALTER TABLE messages DROP COLUMN length',
      'ALTER TABLE messages DROP COLUMN worker',
      'ALTER TABLE messages DROP COLUMN format',
    ],
  });
}
