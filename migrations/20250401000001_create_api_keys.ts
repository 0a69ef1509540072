import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** `hash` is SHA-256 of the key, in hexadecimal; the key itself is not stored. `scopes` are separated by commas. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `CREATE TABLE api_keys (
      id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      prefix VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      hash CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      owner VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
      scopes VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      created_at DATETIME(3) NOT NULL,
      expires_at DATETIME(3) NULL,
      last_used_at DATETIME(3) NULL,
      revoked_at DATETIME(3) NULL,
      PRIMARY KEY (id),
      UNIQUE KEY api_keys_hash (hash)
    ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT = DYNAMIC`,
    sqlite: [
      `CREATE TABLE api_keys (
        id TEXT NOT NULL PRIMARY KEY,
        prefix TEXT NOT NULL,
        hash TEXT NOT NULL,
        owner TEXT NOT NULL,
        scopes TEXT NOT NULL,
        created_at TEXT NOT NULL,
        expires_at TEXT NULL,
        last_used_at TEXT NULL,
        revoked_at TEXT NULL
      ) STRICT, WITHOUT ROWID`,
      'CREATE UNIQUE INDEX api_keys_hash ON api_keys (hash)',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable('api_keys');
}
