import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/**
 * The usage of a limit in one window. `id` is a hash of policy, subject and window, so that no address of a caller is
 * stored; the row expires at `ends_at` (epoch seconds).
 */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `CREATE TABLE rate_limits (
      id CHAR(43) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      points BIGINT NOT NULL,
      ends_at BIGINT NOT NULL,
      PRIMARY KEY (id),
      KEY rate_limits_ends_at (ends_at)
    ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT = DYNAMIC`,
    sqlite: [
      `CREATE TABLE rate_limits (
        id TEXT NOT NULL PRIMARY KEY,
        points INTEGER NOT NULL,
        ends_at INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID`,
      'CREATE INDEX rate_limits_ends_at ON rate_limits (ends_at)',
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable('rate_limits');
}
