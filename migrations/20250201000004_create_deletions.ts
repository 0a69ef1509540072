import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/**
 * A row per deleted or purged conversation, so that older turns from a journal do not create it again. `renewed`: it
 * had expired and started again, which is not a deletion for the turn that started it.
 */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `CREATE TABLE deletions (
      id BIGINT NOT NULL AUTO_INCREMENT,
      conversation_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      owner VARCHAR(255) COLLATE utf8mb4_bin NULL,
      deleted_at DATETIME(3) NOT NULL,
      renewed TINYINT NOT NULL,
      PRIMARY KEY (id),
      KEY deletions_conversation (conversation_id, deleted_at),
      KEY deletions_deleted_at (deleted_at)
    ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT = DYNAMIC`,
    sqlite: [
      `CREATE TABLE deletions (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        conversation_id TEXT NOT NULL,
        owner TEXT NULL,
        deleted_at TEXT NOT NULL,
        renewed INTEGER NOT NULL
      ) STRICT`,
      'CREATE INDEX deletions_conversation ON deletions (conversation_id, deleted_at)',
      'CREATE INDEX deletions_deleted_at ON deletions (deleted_at)',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable('deletions');
}
