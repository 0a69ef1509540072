import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

const ROLES = `CHECK (role IN ('user', 'assistant'))`;
const STATUSES = `CHECK (status IN ('complete', 'streaming', 'incomplete', 'cancelled'))`;

/** `id` is never used again, on SQLite because of AUTOINCREMENT. It orders the messages that have no `seq`. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `CREATE TABLE messages (
      id BIGINT NOT NULL AUTO_INCREMENT,
      uid CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      conversation_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      role VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      content MEDIUMTEXT NOT NULL,
      timestamp DATETIME(3) NOT NULL,
      status VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      reply_to CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
      model VARCHAR(255) NULL,
      finish_reason VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NULL,
      \`usage\` TEXT NULL,
      updated_at DATETIME(3) NOT NULL,
      PRIMARY KEY (id),
      UNIQUE KEY messages_uid (uid),
      KEY messages_conversation (conversation_id),
      KEY messages_timestamp (timestamp),
      KEY messages_conversation_timestamp (conversation_id, timestamp),
      CONSTRAINT messages_conversation_fk FOREIGN KEY (conversation_id) REFERENCES conversations (id) ON DELETE CASCADE,
      CONSTRAINT messages_role ${ROLES},
      CONSTRAINT messages_status ${STATUSES}
    ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT = DYNAMIC`,
    sqlite: [
      `CREATE TABLE messages (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        uid TEXT NOT NULL UNIQUE,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        role TEXT NOT NULL CONSTRAINT messages_role ${ROLES},
        content TEXT NOT NULL,
        timestamp TEXT NOT NULL,
        status TEXT NOT NULL CONSTRAINT messages_status ${STATUSES},
        reply_to TEXT NULL,
        model TEXT NULL,
        finish_reason TEXT NULL,
        usage TEXT NULL,
        updated_at TEXT NOT NULL
      ) STRICT`,
      'CREATE INDEX messages_conversation ON messages (conversation_id)',
      'CREATE INDEX messages_timestamp ON messages (timestamp)',
      'CREATE INDEX messages_conversation_timestamp ON messages (conversation_id, timestamp)',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable('messages');
}
