import type { Knex } from 'knex';
import { dialectOf } from '../src/db/core/dialect.ts';

/** The processes that write to this database. `beat` is a counter: dead workers are found without comparing clocks. */
export async function up(knex: Knex): Promise<void> {
  await dialectOf(knex).ddl(knex, {
    mysql: `CREATE TABLE workers (
      id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      beat BIGINT NOT NULL,
      started_at DATETIME(3) NOT NULL,
      PRIMARY KEY (id)
    ) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT = DYNAMIC`,
    sqlite: [
      `CREATE TABLE workers (
        id TEXT NOT NULL PRIMARY KEY,
        beat INTEGER NOT NULL,
        started_at TEXT NOT NULL
      ) STRICT, WITHOUT ROWID`,
    ],
  });
}

export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable('workers');
}
