import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** `id` and `body_hash` are SHA-256 in hexadecimal: the keys of callers are not stored. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `CREATE TABLE idempotency_keys (
      id CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      body_hash CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      conversation_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      question_uid CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      reply_uid CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      cached TINYINT NOT NULL,
      created_at DATETIME(3) NOT NULL,
      PRIMARY KEY (id),
      KEY idempotency_keys_conversation (conversation_id),
      CONSTRAINT idempotency_keys_conversation_fk FOREIGN KEY (conversation_id)
        REFERENCES conversations (id) ON DELETE CASCADE
    ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT = DYNAMIC`,
    sqlite: [
      `CREATE TABLE idempotency_keys (
        id TEXT NOT NULL PRIMARY KEY,
        body_hash TEXT NOT NULL,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        question_uid TEXT NOT NULL,
        reply_uid TEXT NOT NULL,
        cached INTEGER NOT NULL,
        created_at TEXT NOT NULL
      ) STRICT, WITHOUT ROWID`,
      'CREATE INDEX idempotency_keys_conversation ON idempotency_keys (conversation_id)',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable('idempotency_keys');
}
