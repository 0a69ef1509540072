import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** Ids compare byte by byte, so both databases sort them alike. Engine and charset do not depend on the server. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `CREATE TABLE conversations (
      id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      owner VARCHAR(255) COLLATE utf8mb4_bin NULL,
      last_active DATETIME(3) NOT NULL,
      created_at DATETIME(3) NOT NULL,
      PRIMARY KEY (id),
      KEY conversations_last_active (last_active),
      KEY conversations_created_at (created_at),
      KEY conversations_owner_last_active (owner, last_active)
    ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT = DYNAMIC`,
    sqlite: [
      `CREATE TABLE conversations (
        id TEXT NOT NULL PRIMARY KEY,
        owner TEXT NULL,
        last_active TEXT NOT NULL,
        created_at TEXT NOT NULL
      ) STRICT, WITHOUT ROWID`,
      'CREATE INDEX conversations_last_active ON conversations (last_active)',
      'CREATE INDEX conversations_created_at ON conversations (created_at)',
      'CREATE INDEX conversations_owner_last_active ON conversations (owner, last_active)',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable('conversations');
}
